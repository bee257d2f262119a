/**
 * Puts the CNI script on the node and keeps it chained: a static shell, the script and our network configuration, in
 * this order, each replaced as a whole, versions side by side. Looks again whenever the folder changes, and each 10 s.
 *
 * - Where there is no network yet there is nothing to chain to: it waits for the first one.
 * - A configuration that cannot be read keeps what stands (fail static). When the last other one is gone, ours goes.
 * - It stays when we stop: new pods of the mesh are held then, not let through. Only `removeCni` takes it away.
 * - Of two agents during an upgrade the later one decides: a version that is complete and named is left alone.
 */

import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  watch,
  type FSWatcher,
} from 'node:fs';
import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { removeFile, replaceFile } from './atomic-file.ts';
import {
  activeNetworkFile,
  chainedConflist,
  chainedType,
  CONFLIST_MAX_BYTES,
  OWN_CONFLIST,
} from './cni-conflist.ts';

export interface CniFolders {
  /** The runtime's network configurations, as this process sees the folder. */
  readonly confDir: string;
  /** The runtime's plugins, as this process sees the folder. */
  readonly binDir: string;
}

export interface CniInstallerOptions extends CniFolders {
  /** `binDir` as the container runtime sees it: what the script's first line names. */
  readonly hostBinDir: string;
  /** The script as it is shipped. */
  readonly scriptFile: string;
  /** A static busybox; where there is none the host's `/bin/sh` runs the script. */
  readonly shellFile: string;
  readonly version: string;
  /** The script's folders, as the host sees them. */
  readonly spoolDir: string;
  readonly outsideDir: string;
  readonly enrolledDir: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface CniInstaller {
  /** Why pods are not held at their start; empty when all is well. */
  readonly problem: string;
  close(): void;
}

export const CNI_LOOK_MS = 10_000;
const SCRIPT_PREFIX = 'nodemesh-cni-';
/** busybox acts as a shell only under a name that begins with its own. */
const SHELL_PREFIX = 'busybox-nodemesh-';
const HOST_SHELL = '/bin/sh';
/** Becomes part of file names and of the script's text. */
const VERSION = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const PATH = /^(?:\/[A-Za-z0-9_.:@+-]+)+$/;

/** The script with this node's values in place of its own. Throws `MESH_CONFIG_INVALID` when a line is missing. */
export function renderCniScript(
  text: string,
  interpreter: string,
  values: Readonly<Record<'version' | 'spool' | 'outside' | 'enrolled', string>>,
): string {
  let rendered = text.replace(/^#!.*\n/, `#!${interpreter}\n`);
  for (const [name, value] of Object.entries(values)) {
    const isSafe = name === 'version' ? VERSION.test(value) : PATH.test(value);
    const line = rendered.split('\n').find((candidate) => candidate.startsWith(`${name}=`));
    if (line === undefined || !isSafe) {
      const message = `Cannot prepare the CNI script: ${name} is ${JSON.stringify(value)}`;
      throw new MeshError('MESH_CONFIG_INVALID', message);
    }
    rendered = rendered.replace(`\n${line}\n`, () => `\n${name}=${value}\n`);
  }
  return rendered;
}

/** Installs, and keeps it so until `close`, which leaves everything standing. Never throws: see `problem`. */
export function startCniInstaller(options: CniInstallerOptions): CniInstaller {
  const { clock, logger, confDir } = options;
  const own = `${SCRIPT_PREFIX}${options.version}`;
  let problem = 'not installed yet';
  let installed = false;
  let reported: string | undefined;

  const look = (): void => {
    try {
      if (!installed) {
        installPrograms(options, own);
        chain(options, own);
        removeOtherVersions(options, own);
        installed = true;
      } else chain(options, standingType(options) ?? own);
      problem = existsSync(join(confDir, OWN_CONFLIST)) ? '' : 'there is no network to chain to';
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
    }
    if (problem === reported) return;
    reported = problem;
    if (problem === '') logger.info('new pods of the mesh are held until captured', { confDir });
    else logger.warn('new pods are not held until captured', { confDir, reason: problem });
  };

  look();
  const watcher = watchFolder(confDir, look, logger);
  const timer = clock.every(CNI_LOOK_MS, look);
  return {
    get problem() {
      return problem;
    },
    close() {
      timer.cancel();
      watcher?.close();
    },
  };
}

/** Takes away what any version has installed. Throws the file system's error. */
export function removeCni({ confDir, binDir }: CniFolders): void {
  // First what names the script, then the script.
  if (existsSync(confDir)) removeFile(join(confDir, OWN_CONFLIST));
  for (const name of programs(binDir)) rmSync(join(binDir, name), { force: true });
}

function programs(binDir: string): string[] {
  if (!existsSync(binDir)) return [];
  return readdirSync(binDir).filter(
    (name) => name.startsWith(SCRIPT_PREFIX) || name.startsWith(SHELL_PREFIX),
  );
}

function installPrograms(options: CniInstallerOptions, own: string): void {
  const { binDir, version } = options;
  mkdirSync(binDir, { recursive: true });
  mkdirSync(options.confDir, { recursive: true });
  let interpreter = HOST_SHELL;
  if (existsSync(options.shellFile)) {
    const name = `${SHELL_PREFIX}${version}`;
    replaceIfDifferent(join(binDir, name), readFileSync(options.shellFile), 0o755);
    interpreter = `${options.hostBinDir}/${name} sh`;
  }
  const script = renderCniScript(readFileSync(options.scriptFile, 'utf8'), interpreter, {
    version,
    spool: options.spoolDir,
    outside: options.outsideDir,
    enrolled: options.enrolledDir,
  });
  replaceIfDifferent(join(binDir, own), Buffer.from(script), 0o755);
}

/** Writes and verifies our configuration, if it is not as it should be. */
function chain({ confDir, logger }: CniInstallerOptions, type: string): void {
  const path = join(confDir, OWN_CONFLIST);
  const name = activeNetworkFile(readdirSync(confDir));
  if (name === undefined) {
    if (!existsSync(path)) return;
    logger.warn('the network this node was chained to is gone; so is our configuration', { path });
    removeFile(path);
    return;
  }
  if (name < OWN_CONFLIST) {
    throw new MeshError(
      'MESH_CONFIG_INVALID',
      `Cannot come first: "${join(confDir, name)}" sorts before "${OWN_CONFLIST}"`,
    );
  }
  const chained = chainedConflist(name, readBounded(join(confDir, name)), type);
  if (!chained.ok) throw chained.error;
  if (!replaceIfDifferent(path, Buffer.from(chained.value), 0o600)) return;
  logger.info('chained to the network of this node', { path, behind: name, type });
}

/** What a successor has put in place, if it is there. */
function standingType({ confDir, binDir }: CniInstallerOptions): string | undefined {
  const path = join(confDir, OWN_CONFLIST);
  const type = existsSync(path) ? chainedType(readBounded(path)) : undefined;
  return type !== undefined && existsSync(join(binDir, type)) ? type : undefined;
}

/** A runtime may be starting the former version at this moment; it opens it only once, so removing it is safe. */
function removeOtherVersions({ binDir, version }: CniInstallerOptions, own: string): void {
  for (const name of programs(binDir)) {
    if (name === own || name === `${SHELL_PREFIX}${version}`) continue;
    rmSync(join(binDir, name), { force: true });
  }
}

function readBounded(path: string): string {
  const { size } = statSync(path);
  if (size <= CONFLIST_MAX_BYTES) return readFileSync(path, 'utf8');
  const message = `Cannot read "${path}": ${size} bytes, ${CONFLIST_MAX_BYTES} at most`;
  throw new MeshError('MESH_CONFIG_INVALID', message);
}

/** Whether it was written; then it is read back. */
function replaceIfDifferent(path: string, content: Buffer, mode: number): boolean {
  const stands = (): boolean => {
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined || !stat.isFile() || (stat.mode & 0o777) !== mode) return false;
    return readFileSync(path).equals(content);
  };
  if (stands()) return false;
  replaceFile(path, content, mode);
  if (stands()) return true;
  const message = `Cannot install "${path}": it does not have what was written`;
  throw new MeshError('MESH_CONFIG_INVALID', message);
}

/** Notices are only a short cut: without them the period remains. */
function watchFolder(dir: string, onChange: () => void, logger: Logger): FSWatcher | undefined {
  try {
    const watcher = watch(dir, { persistent: false }, onChange);
    watcher.on('error', (error) => logger.warn('no notices of the CNI folder', { error }));
    return watcher;
  } catch (error) {
    logger.warn('no notices of the CNI folder', { error });
    return undefined;
  }
}
