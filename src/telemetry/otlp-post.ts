/** Posts JSON to a collector over HTTP or HTTPS; the answer counts only as yes or no. */

import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';

import type { Clock } from '../base/clock.ts';
import { errorFromNode, MeshError } from '../base/errors.ts';

const TIMEOUT_MS = 10_000;

/** `url`: of the traces endpoint, usually `http://HOST:4318/v1/traces`. */
export function createOtlpPost(clock: Clock, url: URL): (body: string) => Promise<void> {
  const request = url.protocol === 'https:' ? requestHttps : requestHttp;
  const action = `Cannot export spans to "${url.host}"`;
  return (body) =>
    new Promise((resolve, reject) => {
      const outgoing = request(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
      });
      const timer = clock.after(TIMEOUT_MS, () => {
        outgoing.destroy(new MeshError('MESH_DEADLINE_EXCEEDED', `${action}: no answer in time`));
      });
      const fail = (error: unknown): void => {
        timer.cancel();
        reject(errorFromNode(error, action));
      };
      outgoing.on('error', fail);
      outgoing.on('response', (answer) => {
        answer.on('error', fail);
        answer.resume();
        answer.on('end', () => {
          timer.cancel();
          const { statusCode = 0 } = answer;
          if (statusCode >= 200 && statusCode < 300) resolve();
          else reject(new MeshError('MESH_CONNECTION_RESET', `${action}: status ${statusCode}`));
        });
      });
      outgoing.end(body);
    });
}
