/** Two TLS sockets over loopback, with a certificate made for them. */

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';

export interface TlsPair {
  readonly client: tls.TLSSocket;
  readonly server: tls.TLSSocket;
}

/** Undefined without openssl. */
export function makeCertificate(): { key: string; cert: string } | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'h2-tls-'));
  const at = (name: string): string => join(folder, name);
  try {
    const algorithm = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    const files = ['-keyout', at('key'), '-out', at('cert'), '-days', '2', '-subj', '/CN=test'];
    execFileSync('openssl', ['req', '-x509', ...algorithm, ...files], { stdio: 'ignore' });
    return { key: readFileSync(at('key'), 'utf8'), cert: readFileSync(at('cert'), 'utf8') };
  } catch {
    return undefined;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Two ends of one loopback connection that have agreed on h2. */
export async function connectTls(certificate: { key: string; cert: string }): Promise<TlsPair> {
  const { key, cert } = certificate;
  const listener = tls.createServer({ key, cert, ALPNProtocols: ['h2'], minVersion: 'TLSv1.3' });
  listener.on('error', () => {});
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as net.AddressInfo;
  const client = tls.connect({
    port,
    host: '127.0.0.1',
    ca: cert,
    ALPNProtocols: ['h2'],
    checkServerIdentity: () => undefined,
  });
  client.on('error', () => {});
  const [[server]] = (await Promise.all([
    once(listener, 'secureConnection'),
    once(client, 'secureConnect'),
  ])) as [[tls.TLSSocket], unknown];
  listener.close();
  return { client, server };
}
