/** Kubelet probes of every kind under STRICT, beside kube-proxy's own rules, and nobody else through the same door (T28). */

import t from 'tap';

import { wait } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster, type TestCluster } from './harness.ts';
import { APP_IMAGE, type KubeObject } from './manifests.ts';

const PORTS = { http: 8081, tcp: 8082, grpc: 8083 } as const;
/** Several rounds of every probe. */
const WATCH_MS = 8000;

/** HTTP, TCP, and `grpc.health.v1.Health/Check` answering SERVING. */
const PROGRAM = `
require('node:http').createServer((_, answer) => answer.end('fine')).listen(${PORTS.http}, '::');
require('node:net').createServer((socket) => socket.on('error', () => {}).end('fine')).listen(${PORTS.tcp}, '::');
require('node:http2').createServer().on('stream', (stream) => {
  stream.on('error', () => {});
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.end(Buffer.from([0, 0, 0, 0, 2, 8, 1]));
}).listen(${PORTS.grpc}, '::');
process.on('SIGTERM', () => process.exit(0));
`;

/** What an outsider does: connects, asks, and tells what it heard, or how it was refused. */
const OUTSIDER = `
const [host, port] = process.argv.slice(1);
const socket = require('node:net').connect(Number(port), host, () => socket.write('GET / HTTP/1.0\\r\\n\\r\\n'));
const end = (text) => { console.log(text); process.exit(); };
socket.on('data', (bytes) => end('heard ' + bytes.length));
socket.on('error', ({ code }) => end(code));
socket.on('close', () => end('closed'));
setTimeout(() => end('silence'), 5000);
`;

function objects(namespace: string, node: string): KubeObject[] {
  const probe = { periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 };
  return [
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'probed', namespace },
      spec: {
        selector: { matchLabels: { app: 'probed' } },
        template: {
          metadata: { labels: { app: 'probed' } },
          spec: {
            nodeSelector: { 'kubernetes.io/hostname': node },
            terminationGracePeriodSeconds: 1,
            containers: [
              {
                name: 'app',
                image: APP_IMAGE,
                imagePullPolicy: 'IfNotPresent',
                command: ['/usr/local/bin/node', '-e', PROGRAM],
                startupProbe: {
                  ...probe,
                  failureThreshold: 30,
                  httpGet: { path: '/', port: PORTS.http },
                },
                readinessProbe: { ...probe, grpc: { port: PORTS.grpc } },
                livenessProbe: { ...probe, tcpSocket: { port: PORTS.tcp } },
              },
            ],
          },
        },
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'probed', namespace },
      spec: {
        type: 'NodePort',
        selector: { app: 'probed' },
        ports: Object.entries(PORTS).map(([name, port]) => ({ name, port })),
      },
    },
  ];
}

interface ServiceShape {
  readonly spec: {
    readonly ports: readonly { readonly name: string; readonly nodePort: number }[];
  };
}

/** Every port of the Service, asked on every node from outside of the cluster. */
async function askFromOutside(cluster: TestCluster, namespace: string): Promise<string[]> {
  const path = 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}';
  const nodes = (await cluster.kubectl('get', 'nodes', '-o', path)).trim().split(' ');
  const text = await cluster.kubectl('-n', namespace, 'get', 'service', 'probed', '-o', 'json');
  const answers: string[] = [];
  for (const { name, nodePort } of (JSON.parse(text) as ServiceShape).spec.ports) {
    for (const node of nodes.filter((address) => !address.includes(':'))) {
      const args = ['-e', OUTSIDER, node, String(nodePort)];
      const { out } = await cluster.access.run(process.execPath, args);
      answers.push(`${name} ${out.trim()}`);
    }
  }
  return answers;
}

void t.test(
  'HTTP, TCP and gRPC probes work under STRICT; a masqueraded NodePort client is refused on the same ports (T28)',
  { skip: reasonToSkipCluster(), timeout: 300_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const mesh = await cluster.namespace('probes', { mesh: true, strict: true });
    const plain = await cluster.namespace('probes-plain');
    await cluster.apply([...objects(mesh, 'node-b'), ...objects(plain, 'node-a')]);
    await cluster.rolledOut(mesh, 'deployment/probed');
    await cluster.rolledOut(plain, 'deployment/probed');
    t.pass('started and ready by its probes');
    await wait(WATCH_MS);
    const path =
      'jsonpath={.items[*].status.containerStatuses[*].restartCount} {.items[*].status.containerStatuses[*].ready}';
    const state = await cluster.kubectl('-n', mesh, 'get', 'pods', '-o', path);
    t.equal(state, '0 true', 'never restarted, still ready');
    const heard = await askFromOutside(cluster, plain);
    t.ok(
      heard.length >= 3 && heard.every((answer) => answer.includes('heard')),
      `outside the mesh: ${heard.join(', ')}`,
    );
    for (const answer of await askFromOutside(cluster, mesh)) {
      t.match(answer, /^\w+ (?:ECONNRESET|ECONNREFUSED|closed)$/, `in the mesh: ${answer}`);
    }
  },
);
