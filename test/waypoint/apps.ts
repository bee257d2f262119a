/** Applications that behave as they are told, behind a waypoint with policies. */

import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect as connectH2, type IncomingHttpHeaders } from 'node:http2';

import type { Test } from 'tap';

import type { SpiffeId } from '../../src/core/identity.ts';
import { DEFAULT_RETRIES, type TrafficSettings } from '../../src/core/traffic-policy.ts';
import { ask, rigFor, type Answer, type AskOptions } from './ask.ts';
import type { Rig, RigOptions } from './rig.ts';
import { layer, traffic } from './traffic-builder.ts';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

export interface App {
  readonly server: Server;
  handle: Handler;
  hits: number;
}

/** Names itself in its answer unless told otherwise. */
export function app(name: string): App {
  const made: App = {
    server: createServer((request, response) => {
      made.hits += 1;
      made.handle(request, response);
    }),
    handle: (request, response) => {
      request.resume();
      request.on('end', () => response.end(name));
    },
    hits: 0,
  };
  return made;
}

export const status =
  (code: number, headers: Record<string, string> = {}): Handler =>
  (request, response) => {
    request.resume();
    request.on('end', () => response.writeHead(code, headers).end());
  };

/** A call whose answer is one header block, or breaks the connection. */
export async function grpcCall(
  rig: Rig,
  headers: Record<string, string> = {},
): Promise<IncomingHttpHeaders> {
  const connection = await rig.open('app');
  const session = connectH2('http://app', { createConnection: () => connection });
  session.on('error', () => {});
  const stream = session.request({
    ':method': 'POST',
    ':path': '/shop.Cart/Get',
    'content-type': 'application/grpc',
    te: 'trailers',
    ...headers,
  });
  stream.end();
  stream.resume();
  const [answer] = (await once(stream, 'response')) as [IncomingHttpHeaders];
  session.destroy();
  return answer;
}

export interface Mesh {
  readonly rig: Rig;
  readonly policy: (settings: Partial<TrafficSettings>) => void;
  readonly get: (options?: AskOptions, identity?: SpiffeId) => Promise<Answer>;
}

/** Service `app` with these endpoints. */
export function mesh(t: Test, ...apps: readonly App[]): Promise<Mesh> {
  return meshWith(t, {}, ...apps);
}

export async function meshWith(
  t: Test,
  options: Omit<RigOptions, 'apps'>,
  ...apps: readonly App[]
): Promise<Mesh> {
  const servers = apps.map(({ server }) => server);
  const rig = await rigFor(t, servers, (ports) => ({ ...options, apps: [{ name: 'app', ports }] }));
  return {
    rig,
    policy: (settings) =>
      rig.traffic.apply([traffic('app', layer({ kind: 'service' }, settings))], []),
    get: async (options = {}, identity) => ask(await rig.open('app', identity), options),
  };
}

export const retries = (more: Partial<typeof DEFAULT_RETRIES>): Partial<TrafficSettings> => ({
  retries: { ...DEFAULT_RETRIES, backoffBaseMs: 1, backoffMaxMs: 2, ...more },
});
