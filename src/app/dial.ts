/** Dials the controller over TLS and the agent over its Unix socket, as HTTP/2 sessions. */

import { readFile } from 'node:fs/promises';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

import type { ReadBuffers } from '../base/buffer-pool.ts';
import type { Clock } from '../base/clock.ts';
import { errorFromNode, MeshError } from '../base/errors.ts';
import type { H2Session } from '../http/h2/contract.ts';
import { createH2Session } from '../http/h2/session.ts';
import type { WindowBudget } from '../http/h2/window-budget.ts';
import { discoveryClientOptions, type DiscoveryPeer } from '../identity/tls.ts';

/** What sessions of one process share. */
export interface SessionParts {
  readonly clock: Clock;
  readonly readBuffers: ReadBuffers;
  readonly windowBudget: WindowBudget;
}

function whenConnected(
  socket: Socket,
  event: 'connect' | 'secureConnect',
  what: string,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      socket.destroy();
      reject(new MeshError('MESH_ABORTED', `Gave up connecting to ${what}`));
    };
    socket.on('error', (error) => reject(errorFromNode(error, `Cannot connect to ${what}`)));
    socket.on('close', () =>
      reject(new MeshError('MESH_CONNECTION_CLOSED', `Connection to ${what} closed`)),
    );
    socket.once(event, () => {
      signal.removeEventListener('abort', abort);
      resolve();
    });
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
}

export interface ControllerAddress {
  readonly host: string;
  readonly port: number;
  /** DNS name or address its certificate must carry (T07). */
  readonly name: string;
  /** PEM file of the installed roots. */
  readonly rootFile: string;
}

/** A verified session to the controller. `moreRoots`: those learnt since the install. */
export async function dialController(
  parts: SessionParts,
  controller: ControllerAddress,
  moreRoots: () => readonly string[],
  signal: AbortSignal,
): Promise<H2Session> {
  const what = `the controller at "${controller.host}:${controller.port}"`;
  const installed = await readFile(controller.rootFile, 'utf8').catch((error: unknown) => {
    const message = `Cannot read the installed roots "${controller.rootFile}"`;
    throw new MeshError('MESH_CONFIG_INVALID', message, { cause: error });
  });
  const expected: DiscoveryPeer['expected'] = { kind: 'host', host: controller.name };
  const options = discoveryClientOptions({ rootsPem: [installed, ...moreRoots()], expected });
  const raw = connectTcp({ host: controller.host, port: controller.port, noDelay: true });
  await whenConnected(raw, 'connect', what, signal);
  const socket = connectTls({ socket: raw, ...options });
  await whenConnected(socket, 'secureConnect', what, signal);
  return createH2Session(socket, { role: 'client', ...parts });
}

/** A session to the agent's socket. */
export async function dialAgent(
  parts: SessionParts,
  path: string,
  signal: AbortSignal,
): Promise<H2Session> {
  const socket = connectTcp(path);
  await whenConnected(socket, 'connect', `the agent at "${path}"`, signal);
  return createH2Session(socket, { role: 'client', ...parts });
}

/** One session for all CA calls, dialled when none stands. */
export function sharedSession(
  dial: (signal: AbortSignal) => Promise<H2Session>,
): (signal: AbortSignal) => Promise<H2Session> {
  let current: Promise<H2Session> | undefined;
  return async (signal) => {
    const session = await (current ??= dial(signal)).catch((error: unknown) => {
      current = undefined;
      throw error;
    });
    if (session.state === 'open') return session;
    current = dial(signal);
    return current;
  };
}
