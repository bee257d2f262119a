/** The Makefile on machines that lack something: it says what, and stops before it changes anything. */

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

const TOOLS = ['sh', 'touch', 'make', 'id', 'grep'];

/** A copy of the Makefile where only `programs` exist besides the shell; each is a shell script. */
function machine(t: Tap, programs: Readonly<Record<string, string>>): (...args: string[]) => Run {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-make-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  mkdirSync(join(folder, 'node_modules'));
  for (const tool of TOOLS) {
    if (!(tool in programs)) symlinkSync(which(tool), join(bin, tool));
  }
  for (const [name, script] of Object.entries({ ldconfig: 'echo libatomic.so.1', ...programs })) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(bin, name), 0o755);
  }
  for (const file of ['package.json', 'package-lock.json', '.npmrc']) {
    writeFileSync(join(folder, file), '');
  }
  copyFileSync('Makefile', join(folder, 'Makefile'));
  return (...args) => {
    // PATH on the command line replaces what the Makefile adds, so that the real sbin stays out of sight.
    const run = spawnSync(join(bin, 'make'), [...args, `PATH=${bin}`], {
      cwd: folder,
      encoding: 'utf8',
      env: { PATH: bin },
    });
    return { code: run.status, text: run.stdout + run.stderr };
  };
}

type Tap = Pick<typeof t, 'teardown'>;

interface Run {
  readonly code: number | null;
  readonly text: string;
}

function which(name: string): string {
  return spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).stdout.trim();
}

function nodeOf(version: string): string {
  const fake = `Object.defineProperty(process,'versions',{value:{node:'${version}'}});Object.defineProperty(process,'version',{value:'v${version}'})`;
  return `exec '${process.execPath}' --import "data:text/javascript,${fake}" "$@"`;
}

const skip = which('make') === '' ? 'make is not installed' : false;

t.test('make refuses a system Node that is too old, and says which it needs', { skip }, (t) => {
  for (const version of ['18.20.8', '20.18.3', '21.7.3', '22.11.0']) {
    const { code, text } = machine(t, { node: nodeOf(version), npm: 'echo INSTALLED' })('setup');
    t.equal(code, 2);
    t.match(text, `Cannot install: Node v${version} found, 20.19+ or 22.12+ needed`);
    t.notMatch(text, /INSTALLED/);
  }
  t.end();
});

t.test('make takes a system Node that is new enough', { skip }, (t) => {
  for (const version of ['20.19.0', '22.12.0', '26.10.0']) {
    const { text } = machine(t, { node: nodeOf(version), npm: 'echo INSTALLED' })('setup');
    t.match(text, /INSTALLED/);
  }
  t.end();
});

t.test('make says so when the install brought no Node 26', { skip }, (t) => {
  const { code, text } = machine(t, { node: nodeOf('20.19.0'), npm: 'true' })('setup');
  t.equal(code, 2);
  t.match(text, /the node package brought no Node 26/);
  t.end();
});

t.test('make says so when there is no Node at all', { skip }, (t) => {
  const { code, text } = machine(t, {})('setup');
  t.equal(code, 2);
  t.match(text, /no Node with npm found/);
  t.end();
});

const ALL = { node: nodeOf('26.10.0'), npm: 'echo npm "$@"' };

t.test('make test names exactly the missing packages to a user who is not root', { skip }, (t) => {
  const some = {
    ...ALL,
    ip: 'true',
    sysctl: 'true',
    openssl: 'true',
    'apt-get': 'echo APT',
    id: 'echo 1000',
  };
  const { code, text } = machine(t, some)('test');
  t.equal(code, 2);
  t.match(text, /as root run: apt-get install nftables shellcheck\n/);
  t.notMatch(text, /APT/);
  t.end();
});

t.test(
  'make test installs missing packages as root, and none when all are there',
  { skip },
  (t) => {
    const tools = {
      ...ALL,
      ip: 'true',
      sysctl: 'true',
      openssl: 'true',
      'apt-get': 'echo apt-get "$@" >&2',
    };
    const first = machine(t, { ...tools, id: 'echo 0' })('test');
    // The list of packages reaches apt-get; its standard output is silenced, so the fake uses the other.
    t.match(first.text, /apt-get install .* nftables shellcheck\n/);
    const second = machine(t, { ...tools, nft: 'true', shellcheck: 'true', id: 'echo 0' })('test');
    t.equal(second.code, 0);
    t.notMatch(second.text, /apt-get/);
    t.match(second.text, /npm run --silent check\nnpm run --silent test\n/);
    t.end();
  },
);

t.test('make setup misses a library that Node 26 links', { skip }, (t) => {
  const { code, text } = machine(t, { ...ALL, ldconfig: 'echo libc.so.6', id: 'echo 1000' })(
    'setup',
  );
  t.equal(code, 2);
  t.match(text, /as root run: apt-get install libatomic1\n/);
  t.notMatch(text, /npm ci/);
  t.end();
});

t.test('make demo hands ARGS on', { skip }, (t) => {
  const node = 'case "$1" in -e) ;; *) echo RUN "$@";; esac';
  const run = machine(t, { ...ALL, ip: 'true', nft: 'true', sysctl: 'true', node });
  t.match(run('demo', 'ARGS=--once').text, /RUN src\/bin\/nodemesh\.ts demo --once\n/);
  t.end();
});
