/** Tools that only exist as Go modules: built once into `.cache/` from a pinned version, or the reason why not. */

import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const CACHE = resolve(import.meta.dirname, '../../.cache');
/** Under what the runner gives a file; what Go has compiled by then it keeps, so the next run succeeds. */
const BUILD_TIMEOUT_MS = 270_000;

export type GoTool = { readonly binary: string } | { readonly reason: string };

/** `path` is a main package; its last part is the tool's name. */
export function findGoTool(path: string, version: string): Promise<GoTool> {
  const name = path.split('/').at(-1) ?? '';
  return findBuilt(name, version, async (folder) => {
    const env = { ...process.env, GOBIN: folder };
    const args = ['install', '-ldflags=-s -w', `${path}@${version}`];
    await run('go', args, { env, timeout: BUILD_TIMEOUT_MS });
  });
}

/** The main package in the folder `source`, which pins its own modules; `version` is theirs. */
export function findGoProgram(source: string, name: string, version: string): Promise<GoTool> {
  return findBuilt(name, version, async (folder) => {
    const args = ['build', '-o', join(folder, name), '.'];
    await run('go', args, { cwd: source, timeout: BUILD_TIMEOUT_MS });
  });
}

async function findBuilt(
  name: string,
  version: string,
  build: (folder: string) => Promise<void>,
): Promise<GoTool> {
  const folder = join(CACHE, `${name}-${version}`);
  const binary = join(folder, name);
  if (existsSync(binary)) return { binary };
  try {
    await run('go', ['version']);
  } catch {
    return { reason: `no Go tool chain to build ${name}` };
  }
  mkdirSync(CACHE, { recursive: true });
  const building = mkdtempSync(join(CACHE, `${name}-build-`));
  try {
    await build(building);
    mkdirSync(folder, { recursive: true });
    // Another run may be starting the binary: it appears whole or not at all.
    renameSync(join(building, name), binary);
    return { binary };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { reason: `${name} could not be built: ${message.slice(0, 200)}` };
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
}
