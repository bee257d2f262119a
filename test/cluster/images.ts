/**
 * The images of the test cluster, without a registry: `node test/cluster/images.ts --programs DIR --out DIR`.
 *
 * `nodemesh.test/pause:1` and `nodemesh.test/coredns:1` hold one program each of the cluster's cache;
 * `nodemesh.test/app:1` is what the tests' pods run: Node, a static busybox as shell, and the demo's applications.
 */

import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { writeOciArchive } from '../../daemonset/image/oci-archive.ts';

const REPOSITORY = resolve(import.meta.dirname, '../..');
const BUSYBOX = '/bin/busybox';
const APPLETS = ['sh', 'cat', 'ls', 'nc', 'sleep', 'wget'];
/** What the app image runs, with what that imports. */
const SOURCES = ['src/demo/pod-commands.ts', 'src/demo/traffic.ts', 'test/cluster/pod-program.ts'];
const PATH = 'PATH=/usr/local/bin:/bin';

function copyWithLibraries(program: string, root: string, target: string): void {
  const place = (path: string): string => {
    const full = join(root, path);
    mkdirSync(dirname(full), { recursive: true });
    return full;
  };
  copyFileSync(program, place(target));
  for (const line of execFileSync('ldd', [program], { encoding: 'utf8' }).split('\n')) {
    const library = /(?:=>\s*)?(\/\S+)\s+\(0x/.exec(line)?.[1];
    if (library !== undefined) copyFileSync(library, place(library));
  }
}

function appRoot(root: string): void {
  for (const folder of ['bin', 'etc', 'tmp', 'proc', 'sys', 'dev']) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  copyWithLibraries(realpathSync(process.execPath), root, '/usr/local/bin/node');
  copyFileSync(BUSYBOX, join(root, 'bin/busybox'));
  chmodSync(join(root, 'bin/busybox'), 0o755);
  for (const name of APPLETS) symlinkSync('busybox', join(root, 'bin', name));
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
  for (const source of SOURCES) {
    mkdirSync(dirname(join(root, 'app', source)), { recursive: true });
    copyFileSync(join(REPOSITORY, source), join(root, 'app', source));
  }
  writeFileSync(join(root, 'app/package.json'), '{"type":"module"}\n');
}

function main(): void {
  const { values } = parseArgs({
    options: { programs: { type: 'string' }, out: { type: 'string' } },
  });
  if (values.programs === undefined || values.out === undefined) {
    throw new Error('Use: images.ts --programs DIR --out DIR');
  }
  const { programs, out } = values;
  const write = (name: string, config: object, fill: (root: string) => void): void => {
    const root = mkdtempSync(join(out, 'root-'));
    chmodSync(root, 0o755);
    try {
      fill(root);
      const options = { root, reference: `nodemesh.test/${name}:1`, config: { ...config } };
      // Complete or not there: a node imports whatever it finds.
      writeOciArchive({ ...options, out: join(out, `${name}.new`) });
      renameSync(join(out, `${name}.new`), join(out, `${name}.tar`));
    } finally {
      rmSync(root, { recursive: true });
    }
  };
  for (const [name, program] of [
    ['pause', 'pause'],
    ['coredns', 'dns'],
  ] as const) {
    // They change with the programs, so they are kept beside them.
    const kept = join(programs, `${name}.tar`);
    if (!existsSync(kept)) {
      write(name, { Entrypoint: [`/${program}`] }, (root) =>
        copyFileSync(join(programs, program), join(root, program)),
      );
      renameSync(join(out, `${name}.tar`), kept);
    }
    copyFileSync(kept, join(out, `${name}.tar`));
  }
  const program = '/app/test/cluster/pod-program.ts';
  write('app', { Entrypoint: ['/usr/local/bin/node', program], Env: [PATH] }, appRoot);
}

main();
