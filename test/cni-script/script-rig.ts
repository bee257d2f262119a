/** The CNI script as a container runtime runs it, with folders of a test and whichever shell it is to run on. */

import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import type { Test } from 'tap';

import { renderCniScript } from '../../src/redirect/cni-installer.ts';

export const SCRIPT: string = resolve(import.meta.dirname, '../../cni-script/nodemesh-cni');

const works = ([program = '', ...args]: readonly string[]): boolean =>
  spawnSync(program, [...args, '-c', ':']).status === 0;
const KNOWN = [['dash'], ['busybox', 'sh']].filter(works);

/** The shells that the script must run on, or what this machine has. */
export const SHELLS: readonly (readonly string[])[] = KNOWN.length === 0 ? [['sh']] : KNOWN;

export const PREVIOUS =
  '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/var/run/netns/cni-1"}],' +
  '"ips":[{"address":"10.244.1.5/24","gateway":"10.244.1.1","interface":0},{"address":"fd00::5/64"}],' +
  '"routes":[{"dst":"0.0.0.0/0"}],"dns":{"search":["a\\"}]{[b\\\\"],"domain":"é, \\u0041"}}';

export function networkConfig(previous: string | undefined = PREVIOUS, version = '1.0.0'): string {
  const chained = previous === '' ? '' : `,"prevResult":${previous}`;
  return `{"cniVersion":"${version}","name":"k8s","type":"nodemesh-cni-1"${chained}}`;
}

export interface ScriptResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

export interface ScriptRig {
  readonly spool: string;
  readonly outside: string;
  readonly enrolled: string;
  readonly file: string;
  run(command: string, options?: RunOptions): Promise<ScriptResult>;
}

export interface RunOptions {
  readonly input?: string;
  /** What differs from a usual pod `shop/web`; undefined: not set. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export const POD_UID = '0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f';

export function cniArgs(namespace: string, uid: string = POD_UID): string {
  return `IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=${uid}`;
}

/** `waits`: hundredths of a second in place of the script's own. */
export function createScriptRig(
  t: Test,
  shell: readonly string[],
  waits: { readonly enrolled?: number; readonly unknown?: number } = {},
): ScriptRig {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-cni-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const spool = join(dir, 'run/cni');
  const outside = join(dir, 'run/cni-outside');
  const enrolled = join(dir, 'state/cni/enrolled');
  for (const folder of [outside, enrolled]) mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = join(dir, 'nodemesh-cni-1');
  const values = { version: '1', spool, outside, enrolled };
  let text = renderCniScript(readFileSync(SCRIPT, 'utf8'), '/bin/sh', values);
  for (const [name, wait] of Object.entries(waits)) {
    text = text.replace(new RegExp(`^wait_${name}=.*$`, 'm'), `wait_${name}=${wait}`);
  }
  writeFileSync(file, text);
  chmodSync(file, 0o755);
  const run = (command: string, { input = networkConfig(), env = {} }: RunOptions = {}) =>
    new Promise<ScriptResult>((resolveRun, reject) => {
      const [program = 'sh', ...args] = shell;
      const startMs = performance.now();
      const child = spawn(program, [...args, file], {
        env: {
          PATH: process.env['PATH'],
          CNI_COMMAND: command,
          CNI_CONTAINERID: 'c1',
          CNI_NETNS: '/var/run/netns/cni-1',
          CNI_IFNAME: 'eth0',
          CNI_ARGS: cniArgs('shop'),
          CNI_PATH: '/opt/cni/bin',
          ...env,
        },
      });
      let [stdout, stderr] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString('utf8')));
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('utf8')));
      child.on('error', reject);
      child.stdin.on('error', () => {});
      child.on('close', (status) =>
        resolveRun({ status, stdout, stderr, ms: performance.now() - startMs }),
      );
      child.stdin.end(input);
    });
  return { spool, outside, enrolled, file, run };
}
