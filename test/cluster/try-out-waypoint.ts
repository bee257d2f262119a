/**
 * The second half of `make cluster`: L7 for the shop. `meshctl waypoint apply` makes the waypoint; a canary, a header
 * and a policy on requests show what it is good for, each with its proof.
 */

import { until } from '../../src/demo/mesh.ts';
import {
  AT_ONCE,
  CANARY_RANGE,
  CANARY_RULE,
  countOf,
  HEADER_RULE,
  PROBES,
  route,
} from '../../src/demo/waypoint-story.ts';
import type { ProbeResult, Target } from '../../src/demo/traffic.ts';
import { installGatewayApi } from '../conformance/gateway-api/crds.ts';
import type { ClusterAccess } from './cluster-access.ts';
import { meshctl } from './mesh.ts';
import type { PodLine } from './pod-line.ts';

const SETTLE_MS = 30_000;

const READ_ONLY = `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: read-only
  namespace: shop
  annotations: { nodemesh.dev/explain-refusals: 'true' }
spec:
  targetRefs: [{ kind: Service, name: cart }]
  action: ALLOW
  rules:
    - from: [{ source: { principals: ['cluster.local/ns/shop/sa/web'] } }]
      to: [{ operation: { methods: [GET] } }]
`;

export interface WaypointStory {
  readonly access: ClusterAccess;
  /** In the pod of `web`. */
  readonly web: PodLine;
  readonly cart: Target;
  readonly say: (text: string) => void;
  readonly check: (good: boolean, what: string, seen?: string) => void;
  readonly apply: (manifest: string) => Promise<void>;
}

/** The waypoint stays, with the canary and without the policy. */
export async function showWaypoint(story: WaypointStory): Promise<void> {
  const { access, web, cart, say, check, apply } = story;
  const ask = async (count: number, target: Target = cart): Promise<ProbeResult[]> => {
    const results: ProbeResult[] = [];
    for (let done = 0; done < count; done += AT_ONCE) {
      const batch = Array.from({ length: AT_ONCE }, () => web.probe(target));
      results.push(...(await Promise.all(batch)));
    }
    return results;
  };
  const v2In = (results: readonly ProbeResult[]): number => countOf(results, '"v2"');

  say('meshctl waypoint apply -n shop');
  await installGatewayApi(access);
  await apply(route(CANARY_RULE));
  await web.load('waypoint', [cart]);
  const applied = await meshctl(access, 'waypoint', 'apply', '-n', 'shop');
  const said = (applied.code === 0 ? applied.out : applied.err).trim().split('\n').at(-1);
  check(applied.code === 0, 'one Gateway object, and the controller runs a waypoint', said);

  say('kubectl apply: HTTPRoute that sends 10 % of the requests for cart to its new version');
  let v2 = -1;
  // Before, a third of the requests meets the new version: outside the range.
  await until('about a tenth of the requests meet the new version', SETTLE_MS, async () => {
    const results = await ask(PROBES);
    v2 = v2In(results);
    return results.every(({ ok }) => ok) && v2 >= CANARY_RANGE[0] && v2 <= CANARY_RANGE[1];
  });
  const { failed, sent } = await web.loadStop('waypoint');
  check(failed === 0, 'no request was lost on the way there', `${failed} of ${sent}`);
  check(true, 'the new version gets about a tenth', `${v2} of ${PROBES}`);

  say('kubectl apply: requests with "x-tester: yes" go to the new version');
  await apply(route(HEADER_RULE + CANARY_RULE));
  const tester = { ...cart, headers: { 'x-tester': 'yes' } };
  await until(
    'testers get v2',
    SETTLE_MS,
    async () => v2In(await ask(AT_ONCE, tester)) === AT_ONCE,
  );
  const testers = v2In(await ask(50, tester));
  const others = v2In(await ask(50));
  check(
    testers === 50 && others < 50,
    'testers do, others as before',
    `${testers}, ${others} of 50`,
  );

  say('kubectl apply: AuthorizationPolicy that lets web do nothing but GET');
  await apply(READ_ONLY);
  const post = { ...cart, method: 'POST' };
  let refusal = '';
  await until('POST is refused', SETTLE_MS, async () => {
    refusal = (await web.probe(post)).text;
    return !refusal.includes('"app"');
  });
  check(refusal.includes('shop'), 'POST is refused, and says why', refusal);
  check((await web.probe(cart)).text.includes('"app"'), 'GET is not');
  const policy = ['authorizationpolicies.nodemesh.dev', 'read-only'];
  await access.kubectl(['-n', 'shop', 'delete', ...policy]);
  await until('POST is let in again', SETTLE_MS, async () => {
    return (await web.probe(post)).text.includes('"app"');
  });
}
