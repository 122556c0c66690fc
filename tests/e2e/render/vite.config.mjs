import { defineConfig } from 'vite';

export default defineConfig({
  base: './',
  logLevel: 'warn',
  build: { outDir: 'build/page', chunkSizeWarningLimit: 20000, rolldownOptions: { shimMissingExports: true } },
});
