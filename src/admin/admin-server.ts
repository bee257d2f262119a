/**
 * The admin socket: dumps and the few acts an operator may order (`admin-http.ts`). A Unix socket with mode 0600 and
 * no TCP port (T110): no other pod, no SSRF and no neighbour on the network can reach it, only the user that
 * runs the process and root.
 */

import { lstat, unlink } from 'node:fs/promises';
import type { Server as HttpServer } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';

import { MeshError } from '../base/errors.ts';
import { startListening } from '../base/listen.ts';
import type { AdminContent } from './admin-http.ts';

export interface AdminServerOptions extends AdminContent {
  /** Absolute, at most 107 bytes. A socket left by a dead process is replaced. */
  readonly path: string;
}

export interface AdminServer extends AsyncDisposable {
  /** Closes everything and removes the socket. */
  close(): Promise<void>;
}

/** `sun_path` is 108 bytes with its NUL; Node cuts longer paths silently on some systems. */
const PATH_MAX_BYTES = 107;
const CONNECTIONS_MAX = 16;
/** A socket file that nobody listens on, left by a process that was killed, is removed. */
async function removeStale(path: string): Promise<void> {
  const stat = await lstat(path).catch(() => undefined);
  if (stat === undefined) return;
  const inUse = (what: string): MeshError => {
    return new MeshError('MESH_CONFIG_INVALID', `Cannot listen on "${path}": ${what}`);
  };
  if (!stat.isSocket()) throw inUse('a file that is not a socket is there');
  const isAlive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('error', () => resolve(false));
    probe.on('connect', () => {
      probe.destroy();
      resolve(true);
    });
  });
  if (isAlive) throw inUse('another process is listening there');
  await unlink(path);
}

/** Resolves when it listens; rejects with a MeshError when it cannot. */
export async function serveAdmin(options: AdminServerOptions): Promise<AdminServer> {
  const { path, logger } = options;
  if (!path.startsWith('/') || Buffer.byteLength(path) > PATH_MAX_BYTES) {
    const message = `Cannot listen on "${path}": not an absolute path of at most ${PATH_MAX_BYTES} bytes`;
    throw new MeshError('MESH_CONFIG_INVALID', message);
  }
  await removeStale(path);
  const sockets = new Set<Socket>();
  let http: Promise<HttpServer> | undefined;
  const load = async (): Promise<HttpServer> => {
    try {
      const { createAdminHttp } = await import('./admin-http.ts');
      return createAdminHttp(options);
    } catch (error) {
      // Descriptors may be there again for the next connection.
      http = undefined;
      throw error;
    }
  };
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => void sockets.delete(socket));
    http ??= load();
    http.then(
      (loaded) => {
        loaded.emit('connection', socket);
        socket.resume();
      },
      (error: unknown) => {
        logger.error('Cannot serve the admin socket', { path, error });
        socket.destroy();
      },
    );
  });
  server.on('error', (error) => logger.error('Admin socket failed', { path, error }));
  server.maxConnections = CONNECTIONS_MAX;
  // Node binds within `listen` (tried), so the socket never exists with another mode, not even for a moment.
  const before = process.umask(0o177);
  const listening = startListening(server, { path }, path);
  process.umask(before);
  await listening;
  const close = async (): Promise<void> => {
    http?.then(
      (loaded) => loaded.close(),
      () => {},
    );
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      for (const socket of sockets) socket.destroy();
    });
  };
  return { close, [Symbol.asyncDispose]: close };
}
