/** meshctl as a process, against an API server on loopback: whose rights it asks for, and what Ctrl-C does. */

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import t, { type Test } from 'tap';
import { stringify } from 'yaml';

const MESHCTL = resolve(import.meta.dirname, '../../src/bin/meshctl.ts');
const NODES = '/api/v1/namespaces/nodemesh-system/pods';

// Starting a program that knows every way to log in takes seconds on a busy machine.
t.setTimeout(180_000);

/** Starts meshctl with a kubeconfig that leads to the server. */
async function meshctl(t: Test, server: Server, ...args: string[]): Promise<ChildProcess> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const folder = await mkdtemp(join(tmpdir(), 'meshctl-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const { port } = server.address() as AddressInfo;
  const kubeconfig = join(folder, 'config');
  const named = (fields: object): object[] => [{ name: 'x', ...fields }];
  await writeFile(
    kubeconfig,
    stringify({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'x',
      // client-node wants to be told that plain HTTP is meant.
      clusters: named({
        cluster: { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true },
      }),
      users: named({ user: { token: 'mine' } }),
      contexts: named({ context: { cluster: 'x', user: 'x' } }),
    }),
  );
  const child = spawn(process.execPath, [MESHCTL, '--kubeconfig', kubeconfig, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

async function endOf(child: ChildProcess): Promise<{ code: number | null; stderr: string }> {
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdout?.resume();
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stderr };
}

t.test('--as and --as-group count for requests and for programs in pods', async (t) => {
  const seen: IncomingHttpHeaders[] = [];
  const upgrades: IncomingHttpHeaders[] = [];
  const pod = {
    metadata: { name: 'node-1', namespace: 'nodemesh-system' },
    spec: { nodeName: 'a' },
    status: { phase: 'Running' },
  };
  const server = createServer((request, response) => {
    seen.push(request.headers);
    const isList = request.url?.startsWith(`${NODES}?`) === true;
    response.writeHead(isList ? 200 : 404, { 'content-type': 'application/json' });
    response.end(JSON.stringify(isList ? { metadata: {}, items: [pod] } : { message: 'none' }));
  });
  server.on('upgrade', ({ headers }, socket) => {
    upgrades.push(headers);
    socket.destroy();
  });
  const rights = ['--as', 'jane', '--as-group', 'ops', '--as-group', 'dev'];
  const child = await meshctl(t, server, ...rights, 'proxy', 'list');
  await endOf(child);
  t.ok(seen.length > 0 && upgrades.length > 0, `${seen.length} and ${upgrades.length}`);
  for (const headers of [...seen, ...upgrades]) {
    t.match(headers, { authorization: 'Bearer mine', 'impersonate-user': 'jane' });
    t.equal(headers['impersonate-group'], 'ops, dev', 'both, each in a line of its own');
  }
});

t.test('Ctrl-C ends with 130, at once and without blaming anybody', async (t) => {
  const server = createServer();
  const asked = once(server, 'request');
  const child = await meshctl(t, server, '--request-timeout', '1h', 'status');
  const end = endOf(child);
  await asked;
  child.kill('SIGINT');
  t.strictSame(await end, { code: 130, stderr: '' });
});
