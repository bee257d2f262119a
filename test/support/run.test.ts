/** The runner and its closing line: no way a file ends may pass for success. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';

import t from 'tap';

const folder = `.cache/runner-${process.pid}`;
const TAP = "import t from 'tap';";
const FILES: Readonly<Record<string, string>> = {
  pass: `${TAP} t.test('one', async (t) => t.ok(1)); t.test('two', async (t) => t.ok(1));`,
  nested: `${TAP} t.test('a', async (t) => { t.test('b # {', async (t) => t.ok(1)); t.test('c', async (t) => t.ok(0)); });`,
  skip: `${TAP} t.test('s1', { skip: 'needs root' }, async () => {}); t.test('s2', async (t) => t.skip('no tool')); t.comment('RSS 7 MiB');`,
  top: `${TAP} t.equal(1, 1); t.equal(2, 2);`,
  'top-fail': `${TAP} t.equal(1, 2, 'sum');`,
  crash: `${TAP} t.test('fine', async (t) => t.ok(1)); setTimeout(() => { throw new Error('late'); }, 50);`,
  syntax: 'const = 1;',
  exits: `${TAP} t.test('never done', async () => process.exit(0));`,
  empty: '',
  'no-tests': `${TAP} t.end();`,
  hangs: `${TAP} t.test('h', async () => { setInterval(() => {}, 1e3); await new Promise(() => {}); });`,
  lingers: `${TAP} t.test('l', async (t) => { t.ok(1); setInterval(() => {}, 1e3); });`,
  stuck: `${TAP} t.test('k', async () => { for (;;); });`,
  orphan: `import { spawn } from 'node:child_process'; ${TAP} t.test('o', async (t) => { spawn('sleep', ['60'], { stdio: 'inherit' }).unref(); t.ok(1); });`,
};

function run(...args: string[]): { lines: string[]; code: number | null } {
  const result = spawnSync(process.execPath, ['test/support/run.ts', '--timeout=1', ...args], {
    encoding: 'utf8',
    timeout: 50_000,
  });
  return { lines: result.stdout.trimEnd().split('\n'), code: result.status };
}

function runFile(...names: string[]): { lines: string[]; code: number | null; last: string } {
  const result = run(...names.map((name) => `${folder}/${name}.test.ts`));
  return { ...result, last: result.lines.at(-1) ?? '' };
}

t.before(() => {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(FILES)) {
    writeFileSync(`${folder}/${name}.test.ts`, text);
  }
});
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

t.test('runner counts named tests and exits with 0', async (t) => {
  const { last, code, lines } = runFile('pass', 'skip', 'top');
  t.equal(last, '3 passed, 0 failed, 2 skipped');
  t.equal(code, 0);
  t.match(lines.join('\n'), /skipped s1: needs root/);
  t.match(lines.join('\n'), /skipped s2: no tool/);
  t.match(lines.join('\n'), /# RSS 7 MiB/);
});

t.test('runner counts a failed inner test once and shows the whole report', async (t) => {
  const { last, code, lines } = runFile('nested', 'pass');
  t.equal(last, '3 passed, 1 failed, 0 skipped');
  t.equal(code, 1);
  t.match(lines.join('\n'), /failed a > c/);
  t.match(lines.join('\n'), /not ok 1 - should be/);
});

for (const name of ['top-fail', 'syntax', 'exits', 'empty', 'no-tests']) {
  t.test(`runner fails for a file of the kind "${name}"`, async (t) => {
    const { last, code } = runFile(name);
    t.equal(last, '0 passed, 1 failed, 0 skipped');
    t.equal(code, 1);
  });
}

t.test('runner fails for a file that dies after its tests passed', async (t) => {
  const { last, code } = runFile('crash');
  t.match(last, /^\d passed, 1 failed, 0 skipped$/);
  t.equal(code, 1);
});

t.test('runner ends files that hang and reports them', async (t) => {
  const { last, code, lines } = runFile('hangs', 'lingers', 'stuck', 'orphan');
  t.match(last, /^\d passed, 4 failed, 0 skipped$/);
  t.equal(code, 1);
  t.match(lines.join('\n'), /left processes behind: sleep/);
  t.match(lines.join('\n'), /stuck.test.ts: still running after 1 s/);
});

t.test('runner fails when nothing matches and for unknown options', async (t) => {
  for (const arg of ['test/no-such-folder', '--fast']) {
    const { code, lines } = run(arg);
    t.equal(code, 1);
    t.equal(lines.at(-1), '0 passed, 1 failed, 0 skipped');
  }
});
