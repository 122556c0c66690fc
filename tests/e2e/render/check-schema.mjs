// Checks the dashboards' JSON against the types of Grafana's own schema. As JSON a file would lose its literals, so each
// becomes a module of TypeScript first.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const dashboards = new URL('../../../grafana/dashboards/', import.meta.url);
const out = new URL('build/schema/', import.meta.url);

// Written out, an enum's member is its text. What is added to an annotation is of Prometheus' data source.
const TYPES = `import type { AnnotationQuery, Dashboard as Schema } from '@grafana/schema';

type Written<T> = T extends string
  ? \`\${T}\`
  : T extends Array<infer Item>
    ? Array<Written<Item>>
    : T extends object
      ? { [Key in keyof T]: Written<T[Key]> }
      : T;
type Annotation = Written<AnnotationQuery> & {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  useValueForTime: boolean;
};
export type Dashboard = Omit<Written<Schema>, 'annotations'> & { annotations: { list: Annotation[] } };
`;

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
writeFileSync(new URL('types.ts', out), TYPES);
for (const name of readdirSync(dashboards).filter((each) => each.endsWith('.json'))) {
  const json = readFileSync(new URL(name, dashboards), 'utf8').trim();
  writeFileSync(
    new URL(name.replace('.json', '.ts'), out),
    `import type { Dashboard } from './types';\n\nexport default ${json} satisfies Dashboard;\n`
  );
}
const files = readdirSync(out).map((name) => new URL(name, out).pathname);
const options = '--noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler --target es2022'.split(' ');
execFileSync('npx', ['tsc', ...options, ...files], { cwd: new URL('.', import.meta.url), stdio: 'inherit' });
