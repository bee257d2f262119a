/**
 * Real servers that serve one folder, for the bypass corpus: nginx, Node (as most programs do it), Go's and Python's
 * standard libraries. nginx, Node and Go have a second host, `secret.test`.
 */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFile, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { freePort } from '../../support/free-port.ts';

export type FileOriginName = 'node' | 'nginx' | 'go' | 'python';

export interface FileOrigin {
  readonly name: FileOriginName;
  readonly port: number;
  close(): void;
}

/** Paths under the root, and what is in them. */
const FILES: Readonly<Record<string, string>> = {
  'public/info.txt': 'PUBLIC',
  'public/admin': 'PUBLIC',
  'admin/secret': 'SECRET-PATH',
  'admin/index.html': 'SECRET-PATH',
};
const HERE = import.meta.dirname;

export function createRoot(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'bypass-'));
  for (const [name, content] of Object.entries(FILES)) {
    mkdirSync(join(path, 'root', name, '..'), { recursive: true });
    writeFileSync(join(path, 'root', name), content);
  }
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

function works(command: string, ...args: readonly string[]): boolean {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

async function nodeOrigin(root: string): Promise<FileOrigin> {
  const server = createServer((request, response) => {
    if (/^secret\.test\.?(?::\d+)?$/i.test(request.headers.host ?? '')) {
      response.end('SECRET-HOST');
      return;
    }
    const missing = (): void => void response.writeHead(404).end('missing');
    try {
      const { pathname } = new URL(request.url ?? '', 'http://x');
      const path = join(root, 'root', decodeURIComponent(pathname));
      readFile(path, (error, content) => (error === null ? response.end(content) : missing()));
    } catch {
      missing();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = (): void => {
    server.closeAllConnections();
    server.close();
  };
  return { name: 'node', port: (server.address() as AddressInfo).port, close };
}

/** A program that prints `PORT N`. */
function printing(name: FileOriginName, child: ChildProcess): Promise<FileOrigin> {
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`${name} ended with ${code}`)));
    if (child.stdout === null) throw new Error('no output');
    createInterface(child.stdout).on('line', (line) => {
      const port = /^PORT (\d+)$/.exec(line)?.[1];
      if (port !== undefined)
        resolve({ name, port: Number(port), close: () => child.kill('SIGKILL') });
    });
  });
}

async function nginxOrigin(root: string): Promise<FileOrigin> {
  const port = await freePort();
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((word) => `${word}_temp_path ${root}/${word};`)
    .join(' ');
  writeFileSync(
    join(root, 'nginx.conf'),
    `daemon off; master_process off; pid ${root}/pid; error_log ${root}/error.log;
events {}
http {
  access_log off; ${temp}
  server { listen 127.0.0.1:${port} default_server; root ${root}/root; }
  server { listen 127.0.0.1:${port}; server_name secret.test; return 200 SECRET-HOST; }
}
`,
  );
  const args = ['-c', join(root, 'nginx.conf'), '-e', join(root, 'error.log'), '-p', root];
  const child = spawn('nginx', args, { stdio: 'ignore' });
  for (let tries = 0; tries < 100; tries++) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.on('connect', () => resolve(socket.destroy() !== undefined));
      socket.on('error', () => resolve(false));
    });
    if (open) return { name: 'nginx', port, close: () => child.kill('SIGKILL') };
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  child.kill('SIGKILL');
  throw new Error('nginx does not listen');
}

/** Those that this machine has, and why others are missing. */
export async function startFileOrigins(
  root: string,
): Promise<{ readonly origins: readonly FileOrigin[]; readonly missing: readonly string[] }> {
  const origins: FileOrigin[] = [await nodeOrigin(root)];
  const missing: string[] = [];
  if (works('nginx', '-v')) origins.push(await nginxOrigin(root));
  else missing.push('nginx');
  if (works('python3', '--version')) {
    const child = spawn('python3', [join(HERE, 'origin.py'), join(root, 'root')], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    origins.push(await printing('python', child));
  } else missing.push('python3');
  const binary = join(root, 'origin');
  if (works('go', 'build', '-o', binary, join(HERE, 'origin.go'))) {
    const child = spawn(binary, [join(root, 'root')], { stdio: ['ignore', 'pipe', 'ignore'] });
    origins.push(await printing('go', child));
  } else missing.push('go');
  return { origins, missing };
}

/** The whole answer to one raw request, on a connection of its own; empty when there is none. */
export function exchange(port: number, request: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    let text = '';
    socket.setTimeout(3_000, () => socket.destroy());
    socket.on('data', (chunk: Buffer) => void (text += chunk.toString('latin1')));
    socket.on('error', () => {});
    socket.on('close', () => resolve(text));
    socket.end(Buffer.from(request, 'latin1'));
  });
}
