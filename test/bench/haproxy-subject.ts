/**
 * HAProxy as a pair around an mTLS hop, made as like the mesh as it can be: the same place (inside the pods),
 * the same veths, TLS 1.3 with the same ciphers, keys and certificate chains from the same CA, as many threads
 * as the mesh has workers. HAProxy cannot multiplex TCP: each connection of a client gets a TLS connection of
 * its own. As `haproxy` it resumes TLS sessions, as it does by default, though the mesh does not (a resumed
 * session does not look at the peer's certificate again); as `haproxy-full` it never does.
 *
 * It is easier on HAProxy than on the mesh in one thing: clients are told to connect to its port on their loopback,
 * and it to the server's loopback, so its pods need no redirection, and no connection tracking, which redirection
 * brings; nor does it keep the client's address. Both pass the nodes' namespaces, where connection tracking is on as
 * it is on a node with kube-proxy (here for the mesh's probe rules).
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { createSystemClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { TopologyPod } from '../../src/demo/topology.ts';
import { createFileCaStorage } from '../../src/identity/ca-storage.ts';
import { createKeyPair, privateKeyPem } from '../../src/identity/keys.ts';
import { openSelfSignedCa } from '../../src/identity/self-signed-ca.ts';
import { TLS_CIPHERS } from '../../src/identity/tls.ts';
import { bundlePem } from '../../src/identity/trust-bundle.ts';
import { HTTP_PORT, IPERF_PORT, type Pods, type Service, type Subject } from './subject.ts';
import { startServer } from './tools.ts';

const TRUST_DOMAIN = 'cluster.local';
const CERTIFICATE_LIFE_MS = 24 * 3600 * 1000;
/** Outside the range of ephemeral ports of the bench's pods. */
const LOCAL_PORTS: Record<Service, number> = {
  iperf: 15_201,
  http: 15_080,
  'same-node-iperf': 15_202,
};
const TLS_PORTS: Record<'iperf' | 'http', number> = { iperf: 16_201, http: 16_080 };
/** Both subjects run in the same pods. */
const FULL_PORT_OFFSET = 300;

interface Hop {
  readonly bind: string;
  readonly server: string;
}

function formatConfig(threads: number, hops: readonly Hop[]): string {
  const sections = hops.map(
    ({ bind, server }, index) => `listen hop${index}\n  bind ${bind}\n  server next ${server}\n`,
  );
  return `global
  nbthread ${threads}
  maxconn 8192
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites ${TLS_CIPHERS}
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-server-ciphersuites ${TLS_CIPHERS}
defaults
  mode tcp
  timeout client 60s
  timeout server 60s
  timeout connect 5s
${sections.join('')}`;
}

/** Writes a key with its certificate chain, and the root; returns the options of either end that name them. */
async function writeCertificates(dir: string): Promise<string> {
  const random = createSystemRandom();
  const clock = createSystemClock();
  const storage = createFileCaStorage(join(dir, 'ca'));
  const ca = await openSelfSignedCa({
    trustDomain: TRUST_DOMAIN,
    storage,
    mustExist: false,
    clock,
    random,
  });
  const keys = createKeyPair();
  const identity = `spiffe://${TRUST_DOMAIN}/ns/bench/sa/haproxy` as SpiffeId;
  const issued = unwrap(ca.issue(keys.publicKey, identity, CERTIFICATE_LIFE_MS));
  const leaf = join(dir, 'leaf.pem');
  const root = join(dir, 'root.pem');
  const chain = issued.chainPem.join('');
  writeFileSync(leaf, chain + privateKeyPem(keys.privateKey), { mode: 0o600 });
  writeFileSync(root, bundlePem(ca.bundle).join(''));
  return `ssl crt ${leaf} ca-file ${root} verify required`;
}

export async function createHaproxySubject(
  pods: Pods,
  threads: number,
  benchDir: string,
  name: 'haproxy' | 'haproxy-full',
): Promise<Subject> {
  const resumes = name === 'haproxy';
  const offset = resumes ? 0 : FULL_PORT_OFFSET;
  const dir = join(benchDir, name);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const tls = await writeCertificates(dir);
  const start = (pod: TopologyPod, hops: readonly Hop[]): number => {
    const config = join(dir, `${pod.name}.cfg`);
    writeFileSync(config, formatConfig(threads, hops));
    const log = join(benchDir, 'log', `${name}-${pod.name}.log`);
    const { pid } = startServer(pod.netns, ['haproxy', '-db', '-f', config], log);
    if (pid === undefined) throw new Error('cannot start nsenter');
    return pid;
  };
  const toTls = (service: Service, pod: TopologyPod, port: number): Hop => ({
    bind: `127.0.0.1:${LOCAL_PORTS[service] + offset}`,
    server: `${pod.ip}:${port + offset} ${tls}${resumes ? '' : ' no-ssl-reuse'}`,
  });
  const fromTls = (pod: TopologyPod, port: number, to: number): Hop => ({
    bind: `${pod.ip}:${port + offset} ${tls}${resumes ? '' : ' no-tls-tickets'}`,
    server: `127.0.0.1:${to}`,
  });
  const client = start(pods.client, [
    toTls('iperf', pods.server, TLS_PORTS.iperf),
    toTls('http', pods.server, TLS_PORTS.http),
    toTls('same-node-iperf', pods.neighbour, TLS_PORTS.iperf),
  ]);
  const pids = [
    client,
    start(pods.server, [
      fromTls(pods.server, TLS_PORTS.iperf, IPERF_PORT),
      fromTls(pods.server, TLS_PORTS.http, HTTP_PORT),
    ]),
    start(pods.neighbour, [fromTls(pods.neighbour, TLS_PORTS.iperf, IPERF_PORT)]),
  ];
  return {
    name,
    clientNetns: pods.client.netns,
    address: (service) => ({ host: '127.0.0.1', port: LOCAL_PORTS[service] + offset }),
    processes: () => pids,
    memoryProcesses: () => new Map(resumes ? [['haproxy', client]] : []),
  };
}
