/** Requests over a connection that is a stream of a tunnel, and applications to ask. */

import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage, type Server as HttpServer } from 'node:http';
import { connect, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2';
import type { Server } from 'node:net';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';

import type { Test } from 'tap';

import { createRig, listen, type Rig, type RigOptions } from './rig.ts';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  readonly trailers: NodeJS.Dict<string>;
}

export interface AskOptions {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Buffer;
}

export function ask(connection: Duplex, options: AskOptions = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      method: options.method ?? 'GET',
      path: options.path ?? '/',
      headers: { host: 'app', ...options.headers },
      createConnection: () => connection,
    });
    request.on('error', reject);
    request.on('response', (response) => {
      text(response).then(
        (body) =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body,
            trailers: response.trailers,
          }),
        reject,
      );
    });
    request.end(options.body);
  });
}

/** The head of the answer, over HTTP/2 with prior knowledge. Rejects when the client finds the answer wrong. */
export async function askH2(
  rig: Rig,
  app: string,
  headers: OutgoingHttpHeaders,
): Promise<IncomingHttpHeaders> {
  const connection = await rig.open(app);
  const session = connect(`http://${app}`, { createConnection: () => connection });
  session.on('error', () => {});
  const stream = session.request(headers, { endStream: true });
  const closed = once(stream, 'close');
  const [answer] = (await once(stream, 'response')) as [IncomingHttpHeaders];
  stream.resume();
  await closed;
  session.destroy();
  return answer;
}

/** A rig that is closed with the test, with the servers that its apps stand for. */
export async function rigFor(
  t: Test,
  servers: readonly (Server | HttpServer)[],
  makeOptions: (ports: readonly number[]) => RigOptions,
): Promise<Rig> {
  const ports = await Promise.all(servers.map((server) => listen(server)));
  const rig = await createRig(makeOptions(ports));
  t.teardown(async () => {
    await rig.close();
    for (const server of servers) {
      if ('closeAllConnections' in server) server.closeAllConnections();
      server.close();
    }
  });
  return rig;
}
