/** Starts swarm-process.ts in a pod and speaks with it. */

import { join } from 'node:path';

import { startProcess } from '../../src/demo/processes.ts';
import type { Place } from './pod-sockets.ts';
import type { SwarmCommand, SwarmCounts } from './swarm-process.ts';

export type { SwarmCounts } from './swarm-process.ts';

export interface Swarm {
  readonly pid: number;
  /** One at a time. */
  ask(command: SwarmCommand): Promise<SwarmCounts>;
  stop(): Promise<void>;
}

export async function startSwarm(
  place: Place,
  logFile: string,
  role: 'client' | 'server',
  ...args: readonly string[]
): Promise<Swarm> {
  const program = join(import.meta.dirname, 'swarm-process.ts');
  const started = startProcess({
    netns: place.netns,
    args: [program, role, ...args],
    env: {},
    logFile,
    ipc: true,
  });
  const answer = (): Promise<SwarmCounts> =>
    new Promise((resolve, reject) => {
      started.child.once('message', (counts: SwarmCounts) => resolve(counts));
      void started.exited.then((reason) => reject(new Error(`The swarm ended: ${reason}`)));
    });
  await answer();
  return {
    pid: started.pid,
    ask(command) {
      const answered = answer();
      started.child.send(command);
      return answered;
    },
    async stop() {
      started.kill('SIGKILL');
      await started.exited;
    },
  };
}
