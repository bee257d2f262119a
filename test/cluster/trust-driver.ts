/**
 * A program: asks a real API server what the controller asks it about trust, and prints the answers as one line of
 * JSON. To be run where it is reachable: `cluster run node trust-driver.ts`.
 */

import { createSystemClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { bundlePem } from '../../src/identity/trust-bundle.ts';
import { createApiClient, type ApiRequest } from '../../src/kubernetes/api-client.ts';
import { kubeconfigCredentials } from '../../src/kubernetes/api-credentials.ts';
import { openClusterCa } from '../../src/kubernetes/cluster-ca.ts';
import { createLeaderElection } from '../../src/kubernetes/leader-election.ts';
import { publishRoots } from '../../src/kubernetes/root-config-map.ts';
import { createTokenReviewer, TOKEN_AUDIENCE } from '../../src/kubernetes/token-review.ts';

/** By question; a refusal is its message. */
export type TrustAnswers = Record<string, unknown>;

const SYSTEM = 'nodemesh-system';
const clock = createSystemClock();
const parts = { clock, random: createSystemRandom(), logger: createNullLogger() };
const credentials = await kubeconfigCredentials(process.env['KUBECONFIG'] ?? '', clock);
const client = createApiClient({ clock, credentials });
const answers: TrustAnswers = {};

async function call(request: ApiRequest): Promise<Record<string, unknown>> {
  return (unwrap(await client.request(request)) ?? {}) as Record<string, unknown>;
}

async function makePod(namespace: string, name: string, account: string): Promise<string> {
  const pod = await call({
    method: 'POST',
    path: `/api/v1/namespaces/${namespace}/pods`,
    body: {
      metadata: { name },
      spec: {
        nodeName: 'node-x',
        serviceAccountName: account,
        automountServiceAccountToken: false,
        terminationGracePeriodSeconds: 0,
        containers: [{ name: 'main', image: 'nodemesh.test/none:1' }],
      },
    },
  });
  return (pod['metadata'] as { uid: string }).uid;
}

async function tokenOf(namespace: string, account: string, spec: object): Promise<string> {
  const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
  const answer = await call({ method: 'POST', path, body: { spec } });
  return (answer['status'] as { token: string }).token;
}

/** A reviewer that remembers nothing yet. */
async function prove(token: string): Promise<unknown> {
  const answer = await createTokenReviewer({ clock, client }).authenticate(token);
  return answer.ok ? answer.value : answer.error.message;
}

async function askAboutTokens(): Promise<void> {
  for (const [namespace, account] of [
    [SYSTEM, 'nodemesh-node'],
    ['shop', 'web'],
  ] as const) {
    await call({
      method: 'POST',
      path: '/api/v1/namespaces',
      body: { metadata: { name: namespace } },
    });
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts`;
    await call({ method: 'POST', path, body: { metadata: { name: account } } });
  }
  await call({ method: 'POST', path: '/api/v1/nodes', body: { metadata: { name: 'node-x' } } });
  const proxyUid = await makePod(SYSTEM, 'proxy', 'nodemesh-node');
  const webUid = await makePod('shop', 'web', 'web');
  const bound = (name: string, uid: string): object => ({
    boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name, uid },
  });
  const audiences = [TOKEN_AUDIENCE];
  const proxyToken = await tokenOf(SYSTEM, 'nodemesh-node', {
    audiences,
    ...bound('proxy', proxyUid),
  });
  answers['node'] = await prove(proxyToken);
  answers['workload'] = await prove(
    await tokenOf('shop', 'web', { audiences, ...bound('web', webUid) }),
  );
  answers['ordinary'] = await prove(await tokenOf('shop', 'web', bound('web', webUid)));
  answers['unbound'] = await prove(await tokenOf(SYSTEM, 'nodemesh-node', { audiences }));
  answers['forged'] = await prove(`${proxyToken.slice(0, -8)}AAAAAAAA`);
  await call({
    method: 'DELETE',
    path: `/api/v1/namespaces/${SYSTEM}/pods/proxy`,
    query: { gracePeriodSeconds: '0' },
  });
  // The API server itself remembers a good token for ten seconds.
  for (let turn = 0; turn < 60; turn++) {
    answers['replayed'] = await prove(proxyToken);
    if (typeof answers['replayed'] === 'string') break;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function askAboutTheCa(): Promise<void> {
  const openCa = (): ReturnType<typeof openClusterCa> =>
    openClusterCa({
      ...parts,
      client,
      namespace: SYSTEM,
      trustDomain: 'cluster.local',
      identitiesExist: () => Promise.resolve(false),
    });
  const replicas = await Promise.all([openCa(), openCa(), openCa()]);
  answers['issuers'] = new Set(replicas.map(({ issuerId }) => issuerId)).size;
  const [first] = replicas;
  if (first !== undefined) {
    unwrap(await publishRoots(client, SYSTEM, bundlePem(first.bundle).join('')));
  }
  await call({ method: 'DELETE', path: `/api/v1/namespaces/${SYSTEM}/secrets/nodemesh-ca` });
  answers['lostKey'] = await openCa().then(
    () => 'a new root',
    (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
  );
}

async function askAboutTheLease(): Promise<void> {
  const elections = ['one', 'two', 'three'].map((identity) =>
    createLeaderElection({
      ...parts,
      client,
      namespace: SYSTEM,
      name: 'nodemesh-controller',
      identity,
      onChange: () => {},
    }),
  );
  const leaders = (): number => elections.filter((election) => election.leads()).length;
  for (let turn = 0; turn < 100 && leaders() === 0; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  answers['leaders'] = leaders();
  // Only the first: the next one may lead before this is over.
  await elections.find((election) => election.leads())?.[Symbol.asyncDispose]();
  for (let turn = 0; turn < 100 && leaders() === 0; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  answers['nextLeaders'] = leaders();
}

// Our clocks keep no process alive: without this it would end, silently, while a replica waits to try again.
setInterval(() => {}, 1000);
for (const ask of [askAboutTokens, askAboutTheCa, askAboutTheLease]) {
  try {
    await ask();
  } catch (error) {
    // One line that says it, before the stack: whoever reads a failed test sees the beginning.
    const { message, stack } = error instanceof Error ? error : new Error(String(error));
    process.stderr.write(`${ask.name}: ${message}\n${stack}\n`, () => process.exit(1));
    await new Promise(() => {});
  }
}
process.stdout.write(`${JSON.stringify(answers)}\n`, () => process.exit());
