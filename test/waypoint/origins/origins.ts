/**
 * Real HTTP/1.1 servers for the smuggling corpus. Each tells which requests it saw; nginx and HAProxy by handing them
 * on, each over a connection of its own, to a server of ours that does.
 */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { freePort } from '../../support/free-port.ts';
import { listen } from '../rig.ts';

export const ORIGINS = ['node', 'python', 'go', 'nginx', 'haproxy'] as const;
export type OriginName = (typeof ORIGINS)[number];

export interface Origin {
  readonly port: number;
  /** `METHOD PATH` of every request it has seen. */
  readonly seen: string[];
  close(): void;
}

const HERE = import.meta.dirname;
const START_TRIES = 100;
const START_LOOK_MS = 100;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function works(command: string, args: readonly string[]): boolean {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

/** Why this origin cannot be had here; undefined when it can. */
export function missingOrigin(name: OriginName): string | undefined {
  const probes: Record<OriginName, readonly [string, readonly string[]]> = {
    node: [process.execPath, ['--version']],
    python: ['python3', ['--version']],
    go: ['go', ['version']],
    nginx: ['nginx', ['-v']],
    haproxy: ['haproxy', ['-v']],
  };
  const [command, args] = probes[name];
  return works(command, args) ? undefined : `needs ${command}`;
}

async function nodeOrigin(): Promise<Origin> {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    request.resume();
    request.on('end', () => {
      seen.push(`${request.method} ${request.url}`);
      response.end(request.url);
    });
  });
  const port = await listen(server);
  return {
    port,
    seen,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A program that prints `PORT N` and then a line for each request. */
function spawnedOrigin(child: ChildProcess): Promise<Origin> {
  const seen: string[] = [];
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`the origin ended with ${code}`)));
    const { stdout } = child;
    if (stdout === null) throw new Error('the origin has no output');
    createInterface(stdout).on('line', (line) => {
      const [word, ...rest] = line.split(' ');
      if (word === 'PORT')
        resolve({ port: Number(rest[0]), seen, close: () => child.kill('SIGKILL') });
      if (word === 'SEEN') seen.push(rest.join(' '));
    });
  });
}

async function answers(port: number): Promise<void> {
  for (let tries = 0; tries < START_TRIES; tries++) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.on('connect', () => resolve(true));
      socket.on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
    if (open) return;
    await pause(START_LOOK_MS);
  }
  throw new Error(`nobody listens on ${port}`);
}

/** A proxy in front of a Node origin: it parses, the origin tells. */
async function proxyOrigin(
  command: string,
  makeConfig: (port: number, backend: number, dir: string) => string,
  args: (config: string, dir: string) => readonly string[],
): Promise<Origin> {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-origin-'));
  const backend = await nodeOrigin();
  const port = await freePort();
  const config = join(dir, 'config');
  mkdirSync(join(dir, 'tmp'));
  writeFileSync(config, makeConfig(port, backend.port, dir));
  const child = spawn(command, args(config, dir), { stdio: 'ignore' });
  child.on('error', () => {});
  await answers(port);
  return {
    port,
    seen: backend.seen,
    close() {
      child.kill('SIGTERM');
      backend.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

export function startOrigin(name: OriginName): Promise<Origin> {
  switch (name) {
    case 'node':
      return nodeOrigin();
    case 'python':
      return spawnedOrigin(
        spawn('python3', [join(HERE, 'origin.py')], { stdio: ['ignore', 'pipe', 'inherit'] }),
      );
    case 'go': {
      const dir = mkdtempSync(join(tmpdir(), 'nodemesh-origin-'));
      const binary = join(dir, 'origin');
      const built = spawnSync('go', ['build', '-o', binary, join(HERE, 'origin.go')], {
        stdio: ['ignore', 'inherit', 'inherit'],
        env: { ...process.env, GO111MODULE: 'off' },
      });
      if (built.status !== 0) throw new Error('the Go origin does not build');
      // It runs on without its file.
      return spawnedOrigin(spawn(binary, [], { stdio: ['ignore', 'pipe', 'inherit'] })).finally(
        () => rmSync(dir, { recursive: true, force: true }),
      );
    }
    case 'nginx':
      return proxyOrigin(
        'nginx',
        (port, backend, dir) => `daemon off; master_process off; worker_processes 1;
error_log ${dir}/error.log; pid ${dir}/pid;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path ${dir}/tmp; proxy_temp_path ${dir}/tmp; fastcgi_temp_path ${dir}/tmp;
  uwsgi_temp_path ${dir}/tmp; scgi_temp_path ${dir}/tmp;
  server {
    listen 127.0.0.1:${port};
    location / { proxy_pass http://127.0.0.1:${backend}; }
  }
}
`,
        (config, dir) => ['-c', config, '-p', dir],
      );
    case 'haproxy':
      return proxyOrigin(
        'haproxy',
        (port, backend) => `defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 5s
listen all
  bind 127.0.0.1:${port}
  http-reuse never
  server one 127.0.0.1:${backend}
`,
        (config) => ['-db', '-f', config],
      );
  }
}
