/**
 * What every process of ours refuses before it does anything else (T111, T125): Node's own doors. Its inspector
 * would give whoever can send a signal or set a variable the run of a process that holds keys, and its reports
 * contain the environment.
 */

import { MeshError } from '../base/errors.ts';
import { loadNative } from '../linux/native.ts';
import { forbidMemoryDumps } from '../linux/process-limits.ts';

/** Variables that Node obeys before our first line runs: too late to ignore them, so we do not start. */
const REFUSED: readonly string[] = ['NODE_OPTIONS', 'NODE_TLS_REJECT_UNAUTHORIZED'];

/**
 * For the daemons. Throws `MESH_CONFIG_INVALID` for a variable that changes what Node does. SIGUSR1 does nothing from
 * here on, unless the command line itself names the inspector's port: a listener of ours takes the place of the one
 * that opens it (tried, Node 26.10).
 */
export function hardenProcess(): void {
  for (const name of REFUSED) {
    const value = process.env[name];
    if (value === undefined || value === '') continue;
    const message = `Cannot start: ${name}=${JSON.stringify(value)} would change what Node does in a process that holds keys; unset it`;
    throw new MeshError('MESH_CONFIG_INVALID', message);
  }
  if (!process.execArgv.some((flag) => flag.startsWith('--inspect'))) {
    process.on('SIGUSR1', () => {});
  }
  process.report.reportOnFatalError = false;
  process.report.reportOnSignal = false;
  process.report.reportOnUncaughtException = false;
  process.report.excludeEnv = true;
  forbidMemoryDumps(loadNative());
}
