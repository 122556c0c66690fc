import { defineConfig } from 'vite';

export default defineConfig({
  base: './',
  // Warnings are about packages of others: directives for servers, which mean nothing in a page.
  logLevel: 'error',
  build: { outDir: 'build/page', chunkSizeWarningLimit: 20000 },
});
