/**
 * How the API server is reached and who we are there: as a pod, from the files the kubelet mounts, or by a
 * kubeconfig. Both are read again while we run, since tokens are rotated.
 *
 * The kubeconfig form loads @kubernetes/client-node, which knows every way to log in and costs 86 MB of memory
 * (measured); so it is loaded only then, and a controller in its pod goes without.
 */

import { readFile } from 'node:fs/promises';
import type { SecureContextOptions } from 'node:tls';

import type { KubeConfig } from '@kubernetes/client-node/dist/config.js';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';

/** What one request needs. `tls` is the same object until it changes, so connections can be kept by it. */
export interface ApiAccess {
  readonly tls: SecureContextOptions;
  readonly headers: Readonly<Record<string, string | string[]>>;
}

export interface ApiCredentials {
  readonly server: URL;
  /** Rejects when what proves us cannot be read. */
  access(): Promise<ApiAccess>;
}

/** The kubelet replaces tokens at 80 % of their life, an hour by default; client-go reads once a minute too. */
const REREAD_MS = 60_000;

export const SERVICE_ACCOUNT_DIR = '/var/run/secrets/kubernetes.io/serviceaccount';

export interface InClusterOptions {
  readonly clock: Clock;
  /** `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`. */
  readonly host: string;
  readonly port: string;
  /** Folder with `token` and `ca.crt`. Default `SERVICE_ACCOUNT_DIR`. */
  readonly directory?: string;
}

export function inClusterCredentials(options: InClusterOptions): ApiCredentials {
  const { clock, host, port, directory = SERVICE_ACCOUNT_DIR } = options;
  const server = new URL(`https://${host.includes(':') ? `[${host}]` : host}:${port}`);
  let readMs = -Infinity;
  let ca = '';
  let known: ApiAccess | undefined;
  return {
    server,
    async access() {
      if (known !== undefined && clock.nowMs() - readMs < REREAD_MS) return known;
      const token = (await readFile(`${directory}/token`, 'utf8')).trim();
      const nextCa = await readFile(`${directory}/ca.crt`, 'utf8');
      const tls = known === undefined || nextCa !== ca ? { ca: nextCa } : known.tls;
      ca = nextCa;
      readMs = clock.nowMs();
      known = { tls, headers: { authorization: `Bearer ${token}` } };
      return known;
    },
  };
}

/** Rejects with `MESH_CONFIG_INVALID`. */
export async function kubeconfigCredentials(path: string, clock: Clock): Promise<ApiCredentials> {
  const { KubeConfig } = await import('@kubernetes/client-node/dist/config.js');
  const config = new KubeConfig();
  config.loadFromFile(path);
  return credentialsOf(config, `kubeconfig "${path}"`, clock);
}

/** Those of the current context of `config`; `what` names it in errors. */
export function credentialsOf(config: KubeConfig, what: string, clock: Clock): ApiCredentials {
  const address = config.getCurrentCluster()?.server;
  if (address === undefined) {
    const message = `Cannot use ${what}: its current context names no cluster`;
    throw new MeshError('MESH_CONFIG_INVALID', message);
  }
  let readMs = -Infinity;
  let known: ApiAccess | undefined;
  return {
    server: new URL(address),
    async access() {
      if (known !== undefined && clock.nowMs() - readMs < REREAD_MS) return known;
      const options: SecureContextOptions & { headers?: ApiAccess['headers'] } = {};
      await config.applyToHTTPSOptions(options);
      const { ca, cert, key, headers = {} } = options;
      const tls: Record<string, unknown> = {};
      for (const [name, value] of Object.entries({ ca, cert, key })) {
        if (value !== undefined) tls[name] = value;
      }
      // Certificates of a kubeconfig stay as they are; only tokens of its log-in programs change.
      known = { tls: known?.tls ?? tls, headers: { ...headers } };
      readMs = clock.nowMs();
      return known;
    },
  };
}
