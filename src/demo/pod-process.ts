/**
 * The program inside every demo pod: a small server and a client that does what it is told over IPC. It knows
 * nothing of the mesh, as a user's program would not.
 *
 * Arguments: NAME VERSION PORT PROTOCOL, or NAME VERSION alone for a pod that only calls. `http` answers every
 * request with a line of JSON; `db` greets first and echoes lines (`say X` → `200 X`, `quit` → `221 bye`).
 */

import {
  createPodCommands,
  dbApp,
  httpApp,
  type PodAnswer,
  type PodCommand,
} from './pod-commands.ts';

export interface PodRequest {
  readonly id: number;
  readonly command: PodCommand;
}
export type PodMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'answer'; readonly id: number; readonly answer: PodAnswer };

const health = { failPercent: 0 };
const obey = createPodCommands(health);
const [name = 'pod', version = 'v1', port, protocol] = process.argv.slice(2);
const say = (message: PodMessage): void => void process.send?.(message);
process.on('message', (request: PodRequest) => {
  void obey(request.command).then((answer) => say({ kind: 'answer', id: request.id, answer }));
});
process.on('disconnect', () => process.exit(0));
if (port === undefined) say({ kind: 'ready' });
else {
  const server = protocol === 'db' ? dbApp(name) : httpApp(name, version, health);
  server.on('error', () => process.exit(1));
  server.listen({ host: '::', port: Number(port), backlog: 1024 }, () => say({ kind: 'ready' }));
}
