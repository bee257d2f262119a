/** The house rules, over the whole repository; and each rule, over a file that breaks it. */

import { spawnSync } from 'node:child_process';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';

import t from 'tap';

import { ERROR_CODES } from '../src/base/errors.ts';
import {
  checkArchitecture,
  checkErrorCodes,
  checkFile,
  checkImports,
  checkWords,
} from './support/house-rules.ts';
import { importsOf, readSource } from './support/source-text.ts';

const ARCHITECTURE = 'src/ARCHITECTURE.md';
/** Programs: importing them runs them. */
const PROGRAMS = /^src\/(?:bin|app|demo)\//;

const read = (paths: readonly string[]): Map<string, string> => {
  return new Map(paths.map((path) => [path, readFileSync(path, 'utf8')]));
};
const sources = read(globSync('src/**/*.ts', { exclude: ['src/**/gen/**'] }).toSorted());
const tests = read(globSync('test/**/*.ts').toSorted());

t.test('imports of src/ follow the layer table and the package list', async (t) => {
  t.ok(sources.size > 0);
  t.strictSame(
    [...sources].flatMap(([path, text]) => checkImports(path, text)),
    [],
  );
});

t.test('files have good names, lengths, opening comments and no banned code', async (t) => {
  t.strictSame(
    [...sources, ...tests].flatMap(([path, text]) => checkFile(path, text)),
    [],
  );
});

t.test('the repository speaks of the product alone', async (t) => {
  const folders = ['src', 'test', 'cni-script', 'daemonset', '.ci'].map((name) => `${name}/**/*.*`);
  const paths = globSync([...folders, '*', '.*', '.ci/*'], {
    exclude: ['**/node_modules/**', 'test/bench/results/**', '.git'],
    withFileTypes: true,
  }).filter((entry) => entry.isFile());
  const files = read(paths.map((entry) => `${entry.parentPath}/${entry.name}`));
  t.strictSame(
    [...files].flatMap(([path, text]) => checkWords(path, text)),
    [],
  );
});

t.test('every error code that the product makes is named by a test', async (t) => {
  const named = new Map([...tests].filter(([path]) => path !== 'test/tidy.test.ts'));
  const { untested, unused } = checkErrorCodes(ERROR_CODES, sources, named);
  t.strictSame(untested, []);
  t.strictSame(unused, [], 'every code is made somewhere');
});

const unwritten = existsSync(ARCHITECTURE) ? false : `${ARCHITECTURE} is not written yet`;
t.test('the architecture page names every folder', { skip: unwritten }, async (t) => {
  const folders = readdirSync('src', { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  );
  const names = folders
    .map((entry) => entry.name)
    .filter((name) => readdirSync(`src/${name}`).length > 0);
  t.strictSame(checkArchitecture(names, readFileSync(ARCHITECTURE, 'utf8')), []);
});

t.test('modules load and do no work at import', async (t) => {
  const modules = [...sources.keys()].filter((path) => !PROGRAMS.test(path));
  const script = `await Promise.all(${JSON.stringify(modules)}.map((path) => import('./' + path)));`;
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  t.equal(run.stderr, '', 'says nothing');
  t.equal(run.stdout, '', 'prints nothing');
  t.equal(run.status, 0, 'nothing keeps the process alive');
});

const shellcheck = spawnSync('shellcheck', ['--version']).status === 0;
t.test(
  'shell scripts please shellcheck',
  { skip: !shellcheck && 'needs shellcheck' },
  async (t) => {
    const entries = globSync(['.ci/*', 'cni-script/**', 'src/**/*.sh', 'test/cluster/*'], {
      withFileTypes: true,
    });
    const scripts = entries
      .filter((entry) => entry.isFile())
      .map((entry) => `${entry.parentPath}/${entry.name}`)
      .filter((path) => readFileSync(path, 'utf8').startsWith('#!'));
    t.ok(scripts.length > 0);
    const run = spawnSync('shellcheck', scripts, { encoding: 'utf8' });
    t.equal(run.stdout, '');
    t.equal(run.status, 0);
  },
);

const importCases: Readonly<Record<string, [path: string, text: string, complaint: RegExp]>> = {
  'a higher layer': ['src/base/a.ts', `import { x } from '../core/x.ts';`, /base\/ is layer 0/],
  'the same layer': ['src/policy/a.ts', `import { x } from '../state/x.ts';`, /state\/ is layer 2/],
  'a type of a higher layer': [
    'src/core/a.ts',
    `import type { X } from '../node/x.ts';`,
    /layer 4/,
  ],
  'a type expression': ['src/core/a.ts', `type X = import('../node/x.ts').X;`, /layer 4/],
  'a re-export': ['src/core/a.ts', `export { x } from '../node/x.ts';`, /layer 4/],
  'a dynamic import': ['src/core/a.ts', `await import('../node/x.ts');`, /layer 4/],
  'several lines': ['src/core/a.ts', `import {\n  a,\n  b,\n} from '../node/x.ts';`, /layer 4/],
  'an unknown folder': ['src/magic/a.ts', '', /not in the layer table/],
  'a path out of src': ['src/core/a.ts', `import '../../test/x.ts';`, /leaves src/],
  'no ending': ['src/core/a.ts', `import { x } from './x';`, /needs its ending/],
  'a package of another folder': [
    'src/node/a.ts',
    `import pino from 'pino';`,
    /only telemetry may/,
  ],
  'a subpath of a package': ['src/node/a.ts', `import y from 'yaml/util';`, /only files, cli may/],
  'a scoped package': [
    'src/state/a.ts',
    `import p from '@bufbuild/protobuf';`,
    /only discovery may/,
  ],
  'an unlisted package': ['src/node/a.ts', `import e from 'express';`, /no folder may/],
  'a builtin without prefix': ['src/node/a.ts', `import fs from 'fs';`, /no folder may/],
};
for (const [name, [path, text, complaint]] of Object.entries(importCases)) {
  t.test(`import rule refuses ${name}`, async (t) =>
    t.match(checkImports(path, text)[0], complaint),
  );
}

t.test('import rule accepts lower layers, its own folder, builtins and its packages', async (t) => {
  const text = `// import x from '../app/x.ts'
    import { a } from '../core/a.ts'; import { b } from './b.ts'; import 'node:fs';
    import pino from 'pino'; const s = "import x from '../app/x.ts'";`;
  t.strictSame(checkImports('src/telemetry/a.ts', text), []);
});

const HEAD = '/** What it owns. */\n';
const fileCases: Readonly<Record<string, [text: string, complaint: RegExp, path?: string]>> = {
  environment: ['f(process.env.X);', /settings from app/],
  'wall time': ['f(Date.now());', /Clock\.wallMs/],
  'a date of now': ['f(new Date());', /Clock\.wallMs/],
  'monotonic time': ['f(performance.now());', /Clock\.nowMs/],
  'a timer': ['setTimeout(f, 1);', /Clock\.after/],
  'an interval': ['setInterval(f, 1);', /Clock\.after/],
  'timers by import': [
    `import { setTimeout as s } from 'node:timers/promises';`,
    /Clock|base\/clock/,
  ],
  chance: ['f(Math.random());', /Random\.next/],
  console: ['console.log(1);', /Logger/],
  'module state': ['let count = 0;', /state inside/],
  'exported module state': ['export let count = 0;', /state inside/],
  'a default export': ['export default 1;', /named export/],
  'a barrel': [`export * from './a.ts';`, /no barrels/],
  'an enum': ['export enum A { B }', /const object/],
  any: ['const x: any = 1;', /unknown and a check/],
  'a cast to any': ['f(x as any);', /unknown and a check/],
  'all listeners removed': ['x.removeAllListeners();', /with an event name/],
  'no verification': ['f({ rejectUnauthorized: false });', /checkServerIdentity/],
  'no verification by environment': [`f('NODE_TLS_REJECT_UNAUTHORIZED');`, /trusted root/],
  'a certificate chain as objects': ['s.getPeerCertificate(true);', /getPeerX509Certificate/],
  'a pattern from outside': ['new RegExp(input);', /a literal/],
  'a note to self': [['// TO', 'DO: later'].join(''), /finish or drop/],
  'a long file': ['\n'.repeat(601), /at most 600/],
  'a name that says nothing': ['', /says nothing/, 'src/node/utils.ts'],
  'a name in capitals': ['', /kebab-case/, 'src/node/Relay.ts'],
  'a skip without reason': ['t.skip();', /skip with the reason/, 'test/node/a.test.ts'],
  'a single test': ['t.only(1);', /the whole file/, 'test/node/a.test.ts'],
};
for (const [name, [text, complaint, path = 'src/node/a.ts']] of Object.entries(fileCases)) {
  t.test(`file rule refuses ${name}`, async (t) =>
    t.match(checkFile(path, HEAD + text)[0], complaint),
  );
}

t.test('file rule refuses a file without an opening comment', async (t) => {
  t.match(checkFile('src/node/a.ts', 'const a = 1;\n')[0], /does not open with a comment/);
});

t.test('file rule overlooks comments, strings and places where it is right', async (t) => {
  const quoted = `${HEAD}// Date.now()\nconst a = 'setTimeout(f)'; const b = \`console.log\`; const c = /Math.random/;\n`;
  t.strictSame(checkFile('src/node/a.ts', quoted), []);
  t.strictSame(checkFile('src/node/a.ts', `${HEAD}clock.setTimeout(f); #setInterval(1);\n`), []);
  t.strictSame(checkFile('src/app/a.ts', `${HEAD}f(process.env, Date.now());\n`), []);
  t.strictSame(checkFile('src/bin/a.ts', `#!/usr/bin/env node\n${HEAD}`), []);
  const inTemplate = `${HEAD}const a = \`\${\`\${Date.now()}\`} }\`;\n`;
  t.match(checkFile('src/node/a.ts', inTemplate)[0], /Clock\.wallMs/, 'but not code in a template');
});

t.test('source reader tells code from text', async (t) => {
  const { code } = readSource("a / b / c; x = /['\"/*]/; d = '//'; /* e */ f(`${g({ h: 1 })}i`)");
  t.equal(code.replaceAll(/ +/g, ' '), "a / b / c; x = ; d = ' '; f(`${g({ h: 1 })} `)");
  const found = importsOf(readSource(`import a from 'a';\nimport 'b';\nconst c = import('c');`));
  t.strictSame(
    found.map(({ specifier, line }) => `${line}${specifier}`),
    ['1a', '2b', '3c'],
  );
});

t.test('word rule refuses machines, registries and makers', async (t) => {
  const words = ['/ho~me/joe/x', 'registry.np~mjs.org', 'written with Cl~aude'];
  for (const word of words) {
    t.match(checkWords('README.md', word.replace('~', ''))[0], /not about the product/);
  }
  t.strictSame(checkWords('README.md', 'src/node/work/x and framework'), []);
});

t.test('error code rule tells untested from unused', async (t) => {
  const listed = `['MESH_A', 'MESH_B', 'MESH_C']`;
  const used = new Map([
    ['src/base/errors.ts', listed],
    ['src/node/a.ts', `fail('MESH_A'); fail('MESH_B');`],
  ]);
  const named = new Map([['test/node/a.test.ts', `t.match(error.code, 'MESH_A')`]]);
  t.strictSame(checkErrorCodes(['MESH_A', 'MESH_B', 'MESH_C'], used, named), {
    untested: ['MESH_B'],
    unused: ['MESH_C'],
  });
});

t.test('architecture rule finds the folder that is not named', async (t) => {
  t.strictSame(checkArchitecture(['base', 'core'], 'folders: `base/`'), ['core']);
});
