// Checks the dashboards' JSON against the types of Grafana's own schema, in each major version that they are for. As
// JSON a file would lose its literals, so each becomes a module of TypeScript first.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const dashboards = new URL('../../../grafana/dashboards/', import.meta.url);
const out = new URL('build/schema/', import.meta.url);
const SCHEMAS = ['@grafana/schema', '@grafana/schema-12'];
const CONFIG = {
  compilerOptions: {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    module: 'esnext',
    moduleResolution: 'bundler',
    target: 'es2022',
    types: [],
  },
  include: ['**/*.ts'],
};

// Written out, an enum's member is its text. What is added to an annotation is of Prometheus' data source.
const types = (schema) => `import type { AnnotationQuery, Dashboard as Schema } from '${schema}';

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
for (const schema of SCHEMAS) {
  const folder = new URL(`${schema.split('/')[1]}/`, out); // which the compiler's complaints name
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL('types.ts', folder), types(schema));
  for (const name of readdirSync(dashboards).filter((each) => each.endsWith('.json'))) {
    const json = readFileSync(new URL(name, dashboards), 'utf8').trim();
    writeFileSync(
      new URL(name.replace('.json', '.ts'), folder),
      `import type { Dashboard } from './types';\n\nexport default ${json} satisfies Dashboard;\n`
    );
  }
}
writeFileSync(new URL('tsconfig.json', out), JSON.stringify(CONFIG));
execFileSync('npx', ['tsc', '-p', out.pathname], { cwd: new URL('.', import.meta.url), stdio: 'inherit' });
