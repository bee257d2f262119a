/**
 * The story's second half: L7 for the namespace by one Gateway, and what it is good for. Each step writes what an
 * operator would write and proves it by what `web` gets.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { CART, expect, podNamed, probeFrom, type RunningMesh } from './actions.ts';
import { until } from './mesh.ts';
import type { DemoProcess } from './processes.ts';
import type { Proof, Step } from './story.ts';
import type { ProbeResult } from './traffic.ts';

/** Where the manifest says its pod is. */
const WAYPOINT_HOST = 20;
export const PROBES = 200;
export const AT_ONCE = 10;
const SETTLE_MS = 10_000;
/** Of 200 requests at 10 %: more than four standard deviations to either side. */
export const CANARY_RANGE = [3, 40] as const;
/** Below what outlier detection would put out of the balancing anyway. */
const FAIL_PERCENT = 15;

/** What `web` gets from `cart`, ten requests at a time. */
export async function probes(
  context: RunningMesh,
  count: number,
  headers: Readonly<Record<string, string>> = {},
): Promise<ProbeResult[]> {
  const results: ProbeResult[] = [];
  for (let done = 0; done < count; done += AT_ONCE) {
    const batch = Array.from({ length: AT_ONCE }, () =>
      probeFrom(context, 'web', { ...CART, headers }),
    );
    results.push(...(await Promise.all(batch)));
  }
  return results;
}

export function countOf(results: readonly ProbeResult[], text: string): number {
  return results.filter((result) => result.text.includes(text)).length;
}

/** The route of `cart`, from its rules as YAML. */
export function route(rules: string): string {
  return `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: cart }]
  rules:
${rules}`;
}

export const CANARY_RULE = `    - backendRefs:
        - { name: cart-v1, port: 80, weight: 90 }
        - { name: cart-v2, port: 80, weight: 10 }
`;

export const HEADER_RULE = `    - matches: [{ headers: [{ name: x-tester, value: 'yes' }] }]
      backendRefs: [{ name: cart-v2, port: 80 }]
`;

/** Requests in turn; the default would soon avoid an endpoint that fails, and there would be nothing to hide. */
const IN_TURN = `apiVersion: nodemesh.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: cart }]
  balancing: { algorithm: round-robin }
`;
const RETRIES = `${IN_TURN}  retries: { attempts: 2, statusCodes: [503] }
`;

/** Leads the namespace through a waypoint, which serves before the first request meets it. */
export async function deployWaypoint({ mesh }: RunningMesh): Promise<DemoProcess> {
  const folder = join(import.meta.dirname, 'manifests-waypoint');
  mesh.writeManifest('waypoint.yaml', readFileSync(join(folder, 'waypoint.yaml'), 'utf8'));
  const process = await mesh.startWaypoint('node-b', WAYPOINT_HOST);
  const labels = '{ nodemesh.dev/mesh: enabled, nodemesh.dev/waypoint: waypoint }';
  const namespace = mesh
    .readManifest('namespace.yaml')
    .replace(/labels: \{.*\}/, `labels: ${labels}`);
  mesh.writeManifest('namespace.yaml', namespace);
  return process;
}

const canary: Step = {
  title: 'One Gateway and one HTTPRoute: 10 % of the requests try cart v2',
  async run(context): Promise<Proof> {
    context.mesh.writeManifest('route.yaml', route(CANARY_RULE));
    await deployWaypoint(context);
    let v2 = -1;
    await until('the split is in effect', SETTLE_MS, async () => {
      const tried = await probes(context, 3 * AT_ONCE);
      v2 = countOf(tried, '"v2"');
      return tried.every(({ ok }) => ok) && v2 < AT_ONCE;
    });
    const results = await probes(context, PROBES);
    v2 = countOf(results, '"v2"');
    const failed = results.filter(({ ok }) => !ok).length;
    expect(failed === 0, `${failed} of ${PROBES} requests failed`);
    expect(v2 >= CANARY_RANGE[0] && v2 <= CANARY_RANGE[1], `${v2} of ${PROBES} went to v2`);
    return {
      summary: `of ${PROBES} requests ${PROBES - v2} went to v1 and ${v2} to v2; 0 failed`,
      details: route(CANARY_RULE).trim().split('\n'),
    };
  },
};

const headerRouting: Step = {
  title: 'Testers first: a header decides',
  async run(context): Promise<Proof> {
    context.mesh.writeManifest('route.yaml', route(HEADER_RULE + CANARY_RULE));
    const tester = { 'x-tester': 'yes' };
    await until('testers get v2', SETTLE_MS, async () => {
      return countOf(await probes(context, AT_ONCE, tester), '"v2"') === AT_ONCE;
    });
    const testers = await probes(context, 5 * AT_ONCE, tester);
    const others = await probes(context, 5 * AT_ONCE);
    const v2 = countOf(testers, '"v2"');
    expect(v2 === testers.length, `${v2} of ${testers.length} testers got v2`);
    expect(countOf(others, '"v1"') > 0, 'nobody else gets v1');
    return {
      summary: `all ${testers.length} requests with "x-tester: yes" went to v2, ${countOf(others, '"v1"')} of ${others.length} others to v1`,
      details: [],
    };
  },
};

const hidden: Step = {
  title: `cart v1 fails ${FAIL_PERCENT} % of its requests: a TrafficPolicy hides it`,
  async run(context): Promise<Proof> {
    const { mesh } = context;
    mesh.removeManifest('route.yaml');
    mesh.writeManifest('traffic.yaml', IN_TURN);
    const { program } = podNamed(context, 'cart-v1');
    await program.ask({ kind: 'fail', percent: FAIL_PERCENT });
    await until('both versions are asked in turn', SETTLE_MS, async () => {
      return countOf(await probes(context, 2 * AT_ONCE), '"v2"') === AT_ONCE;
    });
    const before = countOf(await probes(context, PROBES), 'out of order');
    expect(before > 0, 'no request failed before the policy');
    mesh.writeManifest('traffic.yaml', RETRIES);
    await until('nobody sees a failure', SETTLE_MS, async () => {
      return countOf(await probes(context, 3 * AT_ONCE), 'out of order') === 0;
    });
    const after = countOf(await probes(context, PROBES), 'out of order');
    await program.ask({ kind: 'fail', percent: 0 });
    expect(after === 0, `${after} of ${PROBES} requests still failed`);
    return {
      summary: `${before} of ${PROBES} requests failed before, ${after} after: each was tried again elsewhere`,
      details: RETRIES.trim().split('\n'),
    };
  },
};

export const WAYPOINT_STORY: readonly Step[] = [canary, headerRouting, hidden];
