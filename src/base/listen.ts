/** Begins to listen, once for all servers: ready, or a `MeshError` that says where it failed. */

import type { ListenOptions, Server } from 'node:net';

import { errorFromNode } from './errors.ts';

/**
 * Calls `listen` before it returns. Resolves when `server` listens; rejects with MESH_CONNECT_FAILED or similar, naming
 * `where`, when it cannot. Errors after that are for the listeners of the caller.
 */
export function startListening(server: Server, to: ListenOptions, where: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => {
      reject(errorFromNode(error, `Cannot listen on "${where}"`));
    };
    server.once('error', onError);
    server.listen(to, () => {
      server.off('error', onError);
      resolve();
    });
  });
}
