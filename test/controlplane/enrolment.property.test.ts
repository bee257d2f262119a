/** Whatever labels, reports, acknowledgements and replacements do, in any order: nothing leaks, all settles. */

import fc from 'fast-check';
import t from 'tap';

import type { PodUid } from '../../src/core/pod.ts';
import { Model, namespace, own, pod } from './build.ts';

const STRICT_KEY = 'nodemesh-system/istio_converted_static_strict';
const strict = own('MeshConfig', 'nodemesh-system/default', { mtls: { mode: 'STRICT' } });

type Act =
  | { readonly act: 'label'; readonly on: boolean }
  | {
      readonly act: 'report';
      readonly state: 'captured' | 'pending' | 'failed';
      readonly uid: number;
    }
  | { readonly act: 'silence' }
  | { readonly act: 'replace'; readonly uid: number; readonly running: boolean }
  | { readonly act: 'delete' }
  | { readonly act: 'acknowledge' }
  | { readonly act: 'late' };

const anyAct: fc.Arbitrary<Act> = fc.oneof(
  { weight: 3, arbitrary: fc.boolean().map((on) => ({ act: 'label', on }) as const) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom('captured', 'captured', 'pending', 'failed'), fc.nat(2))
      .map(([state, uid]) => ({ act: 'report', state, uid }) as const),
  },
  { weight: 1, arbitrary: fc.constant({ act: 'silence' } as const) },
  {
    weight: 2,
    arbitrary: fc
      .tuple(fc.nat(2), fc.boolean())
      .map(([uid, running]) => ({ act: 'replace', uid, running }) as const),
  },
  { weight: 1, arbitrary: fc.constant({ act: 'delete' } as const) },
  { weight: 4, arbitrary: fc.constant({ act: 'acknowledge' } as const) },
  { weight: 1, arbitrary: fc.constant({ act: 'late' } as const) },
);

function podOf(uid: number, running: boolean): ReturnType<typeof pod> {
  return pod('shop/web', {
    uid: `u${uid}`,
    ip: '10.0.0.1',
    phase: running ? 'Running' : 'Pending',
  });
}

t.test('invariants of enrolment hold in any history, and every history settles', (t) => {
  const property = fc.property(fc.array(anyAct, { maxLength: 40, size: 'max' }), (acts) => {
    const model = new Model().put(strict, namespace('shop'), podOf(0, true)).settleAll();
    let on = false;
    let current: string | undefined = 'u0';
    /** Of the pod that is there now. */
    let everCaptured = false;
    let lastReport: unknown;
    const late = [...model.settlements];
    const check = (): void => {
      const workload = model.workloads.get('Kubernetes//Pod/shop/web');
      const enrolled = current === undefined ? undefined : model.local('node-a', current)?.enrolled;
      const hbone = workload?.tunnelProtocol === 'hbone';
      if (hbone && !everCaptured) throw new Error('HBONE without a capture');
      if (hbone && enrolled !== true) throw new Error('HBONE, but its node lets go of it');
      const refuses = workload?.authorizationPolicies.includes(STRICT_KEY) === true;
      if (refuses && enrolled !== true) throw new Error('STRICT outside the mesh');
    };
    for (const step of acts) {
      switch (step.act) {
        case 'label':
          on = step.on;
          model.put(namespace('shop', on ? { 'nodemesh.dev/mesh': 'enabled' } : {}));
          break;
        case 'report': {
          const podUid = `u${step.uid}` as PodUid;
          const report = { podUid, state: step.state, reason: '' };
          lastReport = podUid === current ? step.state : undefined;
          if (lastReport === 'captured') everCaptured = true;
          model.world.report('node-a', [report]);
          break;
        }
        case 'silence':
          model.world.report('node-a', []);
          break;
        case 'replace':
          if (current !== `u${step.uid}`) everCaptured = false;
          current = `u${step.uid}`;
          model.put(podOf(step.uid, step.running));
          break;
        case 'delete':
          current = undefined;
          everCaptured = false;
          model.remove('Pod', 'shop/web');
          break;
        case 'acknowledge':
          late.push(...model.settlements);
          model.acknowledge();
          break;
        case 'late':
          for (const settlement of late) model.world.settle(settlement);
      }
      model.publish();
      check();
    }
    model.settleAll();
    check();
    if (current === undefined) return;
    model.captured('node-a', current).settleAll();
    everCaptured = true;
    check();
    const workload = model.workload('shop/web');
    const seen = [
      workload.tunnelProtocol,
      workload.authorizationPolicies.includes(STRICT_KEY),
      model.local('node-a', current)?.enrolled,
    ];
    const expected = on ? ['hbone', true, true] : ['none', false, false];
    if (JSON.stringify(seen) !== JSON.stringify(expected)) {
      throw new Error(`${JSON.stringify(seen)} instead of ${JSON.stringify(expected)}`);
    }
  });
  fc.assert(property, { numRuns: 300 });
  t.end();
});
