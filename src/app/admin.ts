/**
 * Composition root of `nodemesh admin METHOD PATH…`: asks every process of this pod and prints what they answer as one
 * JSON object. `/metrics` and `/healthz/…` go to the read-only ports, everything else to the admin sockets.
 * `/metrics?prefix=X` leaves out what does not begin with X: a busy node has megabytes of them.
 */

import {
  askAdmin,
  findAdminSockets,
  type AdminAnswer,
  type AdminTarget,
} from '../admin/admin-client.ts';
import { readAdminConfig } from './config/settings.ts';
import { unwrap } from '../base/result.ts';

/** Returns the exit code: 0 when somebody answered every path. */
export async function runAdmin(method: 'GET' | 'POST', paths: readonly string[]): Promise<number> {
  const config = unwrap(readAdminConfig((name) => process.env[name]));
  const sockets = findAdminSockets([config.runDir, config.controllerStateDir]);
  const port = (number: number): AdminTarget => ({
    from: 'port',
    pid: undefined,
    options: { host: '127.0.0.1', port: number },
  });
  const targetsOf = (path: string): readonly AdminTarget[] => {
    if (path.split('?')[0] === '/metrics') return [port(config.metricsPort)];
    return path.startsWith('/healthz/') ? [port(config.readinessPort)] : sockets;
  };
  const answers = await Promise.all(
    paths.flatMap((path) => targetsOf(path).map((target) => askAdmin(target, method, path))),
  );
  process.stdout.write(`${JSON.stringify({ answers: answers.map(onlyPrefix) })}\n`);
  const isAnswered = (path: string): boolean =>
    answers.some((answer) => answer.path === path && answer.status === 200);
  return paths.every(isAnswered) ? 0 : 1;
}

function onlyPrefix(answer: AdminAnswer): AdminAnswer {
  const prefix = /^\/metrics\?prefix=(\w+)$/.exec(answer.path)?.[1];
  if (prefix === undefined || typeof answer.body !== 'string') return answer;
  const lines = answer.body.split('\n').filter((line) => line.startsWith(prefix));
  return { ...answer, body: lines.join('\n') };
}
