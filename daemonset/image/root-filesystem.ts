/**
 * The image's root file system: Node, our compiled code with its production packages, `nft` and `ip` with the
 * libraries they link, the CNI script with a static busybox for hosts that have no shell, and nothing else: no shell
 * in PATH, no package manager. Programs and libraries are those of the Debian it is built on.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';

/** A file of the root, without its leading slash. */
export interface RootEntry {
  readonly path: string;
  readonly bytes: number;
}

/** What the agent starts, with the Debian package that has it. */
const PROGRAMS = [
  ['nft', 'nftables'],
  ['ip', 'iproute2'],
] as const;
const STATIC_SHELL = 'busybox';
const SEARCH = ['/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** Nobody signs in; Node and nft want to know a name for their user. */
const PASSWD = `root:x:0:0:root:/:/nonexistent
nonroot:x:65532:65532:nonroot:/:/nonexistent
`;
const GROUP = `root:x:0:
nonroot:x:65532:
`;
const NSSWITCH = 'passwd: files\ngroup: files\nhosts: files dns\n';

/** What of a package is only for those who compile or read it. */
const NEEDLESS = /\.(?:d\.[cm]?ts|[cm]?ts|map|md|markdown|flow|c|cc|h|hh)$/i;
const NEEDLESS_FOLDERS = new Set([
  'test',
  'tests',
  'docs',
  'doc',
  'examples',
  'benchmarks',
  'bench',
  '.github',
]);

function which(program: string, packageName: string): string {
  const found = SEARCH.map((folder) => join(folder, program)).find((path) => existsSync(path));
  if (found === undefined) {
    throw new Error(`Cannot build the image: no "${program}"; install the package ${packageName}`);
  }
  return realpathSync(found);
}

/** The Node that runs this, which `package-lock.json` pins. */
function nodeBinary(): string {
  return realpathSync(process.execPath);
}

/** Paths of the shared libraries, by the name they are looked up by; the loader included. */
function librariesOf(program: string): Map<string, string> {
  const text = execFileSync('ldd', [program], { encoding: 'utf8' });
  const found = new Map<string, string>();
  for (const line of text.split('\n')) {
    const path = /(?:=>\s*)?(\/\S+)\s+\(0x/.exec(line)?.[1];
    if (path !== undefined) found.set(path, realpathSync(path));
  }
  return found;
}

/** What of our code and its packages is for a terminal: meshctl is no part of the image, and a pod needs no kubeconfig. */
const TERMINAL_PACKAGES = new Set(['@kubernetes/client-node']);
const TERMINAL_CODE = ['bin/meshctl.js', 'app/meshctl.js', 'cli'];

interface LockedPackage {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

/**
 * Folders of the packages that the image's programs need and this machine has, found from `package-lock.json` as Node
 * finds them: in the nearest `node_modules` upwards.
 */
function productionPackages(repository: string): string[] {
  const lock = JSON.parse(readFileSync(join(repository, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, LockedPackage | undefined>;
  };
  const needed = new Set<string>();
  const resolve = (name: string, from: string): string | undefined => {
    for (
      let folder = from;
      ;
      folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))
    ) {
      const path = `${folder === '' ? '' : `${folder}/`}node_modules/${name}`;
      if (lock.packages[path] !== undefined) return path;
      if (folder === '') return undefined;
    }
  };
  const visit = (path: string): void => {
    const { dependencies, optionalDependencies, peerDependencies } = lock.packages[path] ?? {};
    for (const name of Object.keys({
      ...dependencies,
      ...optionalDependencies,
      ...peerDependencies,
    })) {
      const found = TERMINAL_PACKAGES.has(name) ? undefined : resolve(name, path);
      if (found === undefined || needed.has(found) || !existsSync(join(repository, found)))
        continue;
      needed.add(found);
      visit(found);
    }
  };
  visit('');
  return [...needed].toSorted();
}

/** Copies a package without its nested packages, which the lockfile lists by themselves. */
function copyPackage(from: string, to: string): void {
  cpSync(from, to, {
    recursive: true,
    dereference: true,
    filter: (path) => {
      const name = basename(path);
      if (path === from) return true;
      if (name === 'node_modules' || NEEDLESS.test(name)) return false;
      return !(NEEDLESS_FOLDERS.has(name) && dirname(path) === from);
    },
  });
}

function installProgram(root: string, program: string, target: string): void {
  mkdirSync(dirname(join(root, target)), { recursive: true });
  cpSync(program, join(root, target), { dereference: true });
  chmodSync(join(root, target), 0o755);
  for (const [name, path] of librariesOf(program)) {
    // `/lib` is a link to `/usr/lib`, as on the Debian they come from.
    const place = join(root, name.startsWith('/lib') ? `/usr${name}` : name);
    mkdirSync(dirname(place), { recursive: true });
    if (!existsSync(place)) cpSync(path, place, { dereference: true });
  }
}

/** Compiles straight into the image: nobody's `dist/` is touched. */
function compile(repository: string, into: string): void {
  const compiler = join(repository, 'node_modules/.bin/tsc');
  const plain = ['declaration', 'isolatedDeclarations', 'sourceMap'].flatMap((name) => [
    `--${name}`,
    'false',
  ]);
  execFileSync(compiler, ['--outDir', into, ...plain], {
    cwd: repository,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}

/** Fills `root`, which must not exist or be empty. */
export function assembleRoot(repository: string, root: string): void {
  for (const folder of [
    'etc',
    'tmp',
    'run',
    'var/lib',
    'usr/lib',
    'usr/lib64',
    'usr/sbin',
    'proc',
    'sys',
    'dev',
  ]) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  chmodSync(join(root, 'tmp'), 0o1777);
  for (const name of ['lib', 'lib64', 'sbin']) symlinkSync(`usr/${name}`, join(root, name));
  symlinkSync('../run', join(root, 'var/run'));
  writeFileSync(join(root, 'etc/passwd'), PASSWD);
  writeFileSync(join(root, 'etc/group'), GROUP);
  writeFileSync(join(root, 'etc/nsswitch.conf'), NSSWITCH);

  installProgram(root, nodeBinary(), '/usr/local/bin/node');
  for (const [program, packageName] of PROGRAMS) {
    installProgram(root, which(program, packageName), `/usr/sbin/${program}`);
  }
  const app = join(root, 'app');
  compile(repository, join(app, 'dist'));
  for (const path of TERMINAL_CODE) rmSync(join(app, 'dist', path), { recursive: true });
  for (const path of productionPackages(repository)) {
    copyPackage(join(repository, path), join(app, path));
  }
  cpSync(join(repository, 'package.json'), join(app, 'package.json'));
  cpSync(join(repository, 'LICENSE'), join(app, 'LICENSE'));
  const script = join(repository, 'cni-script');
  if (existsSync(script)) cpSync(script, join(app, 'cni-script'), { recursive: true });
  const shell = join(app, 'cni-script', STATIC_SHELL);
  mkdirSync(dirname(shell), { recursive: true });
  cpSync(which(STATIC_SHELL, 'busybox-static'), shell, { dereference: true });
  chmodSync(shell, 0o755);
}

/** Every file, sorted. `root` must be a real path. */
export function listRoot(root: string): RootEntry[] {
  return (
    readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      // Node walks through links to folders; what is behind one is listed where it is.
      .filter((path) => realpathSync(path) === path)
      .map((path) => ({ path: relative(root, path), bytes: statSync(path).size }))
      .toSorted((a, b) => (a.path < b.path ? -1 : 1))
  );
}

/** Changes whenever the image would: sources, lockfile, this builder, and the programs of the machine. */
export function digestInputs(repository: string): string {
  const hash = createHash('sha256');
  const files = globSync(
    [
      'src/**/*',
      'daemonset/image/*',
      'cni-script/**/*',
      'package.json',
      'package-lock.json',
      'tsconfig.json',
    ],
    { cwd: repository },
  ).toSorted();
  for (const file of files) {
    const path = join(repository, file);
    if (statSync(path).isFile()) hash.update(`${file}\n`).update(readFileSync(path));
  }
  const programs = PROGRAMS.map(([program, packageName]) => which(program, packageName));
  for (const path of [nodeBinary(), which(STATIC_SHELL, 'busybox-static'), ...programs]) {
    const { size, mtimeMs } = statSync(path);
    hash.update(`${path} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex');
}
