/** The order of joining and leaving the mesh (design, section 2), step by step. */

import t from 'tap';

import type { PodUid } from '../../src/core/pod.ts';
import { wantsEnrolment } from '../../src/controlplane/enrolment.ts';
import type { Namespace, Pod } from '../../src/controlplane/objects.ts';
import { Model, namespace, own, pod } from './build.ts';

const ENABLED = { 'nodemesh.dev/mesh': 'enabled' };
const STRICT = own('MeshConfig', 'nodemesh-system/default', { mtls: { mode: 'STRICT' } });
const STRICT_KEY = 'nodemesh-system/istio_converted_static_strict';
const web = pod('shop/web', { uid: 'u1', ip: '10.0.0.1', phase: 'Running' });

function facts(model: Model): unknown[] {
  const { tunnelProtocol, authorizationPolicies } = model.workload('shop/web');
  const strict = authorizationPolicies.includes(STRICT_KEY);
  return [model.local('node-a', 'u1')?.enrolled, tunnelProtocol, strict];
}

t.test('a running pod joins step by step: attach, capture, announce, STRICT', (t) => {
  const model = new Model().put(namespace('shop'), STRICT, web).settleAll();
  t.same(facts(model), [false, 'none', false], 'plain');
  model.put(namespace('shop', ENABLED)).publish();
  t.same(facts(model), [true, 'none', false], 'attaching');
  t.same(model.settlements, [], 'the node acts next');
  model.captured('node-a', 'u1').publish();
  t.same(facts(model), [true, 'hbone', false], 'announcing');
  t.match(model.settlements, [{ kind: 'pod', podUid: 'u1', node: undefined }], 'all nodes');
  model.acknowledge();
  t.same(facts(model), [true, 'hbone', true], 'enrolled');
  t.end();
});

t.test('a pod leaves in reverse: relax, retract, let go', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), STRICT, web).settleAll();
  model.captured('node-a', 'u1').settleAll();
  t.same(facts(model), [true, 'hbone', true]);
  model.put(namespace('shop')).publish();
  t.same(facts(model), [true, 'hbone', false], 'relaxing');
  t.match(model.settlements, [{ node: 'node-a' }], 'its own node');
  model.acknowledge();
  t.same(facts(model), [true, 'none', false], 'retracting');
  t.match(model.settlements, [{ node: undefined }], 'all nodes');
  model.acknowledge();
  t.same(facts(model), [false, 'none', false], 'plain');
  t.end();
});

t.test('a pod that never ran in plain text has STRICT from its first moment', (t) => {
  const pending = pod('shop/web', { uid: 'u1', phase: 'Pending' });
  const model = new Model().put(namespace('shop', ENABLED), STRICT, pending).settleAll();
  t.same(model.workload('shop/web').addresses, [], 'known before it has an address');
  t.equal(model.local('node-a', 'u1')?.enrolled, true, 'its node knows it from scheduling on');
  model.put(pod('shop/web', { uid: 'u1', ip: '10.0.0.1', phase: 'Pending' })).publish();
  t.same(facts(model), [true, 'none', true]);
  model.captured('node-a', 'u1').publish();
  t.same(facts(model), [true, 'hbone', true]);
  t.same(model.settlements, []);
  t.end();
});

t.test('nodes know which namespaces are enrolled before a pod of them starts', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), namespace('plain')).settleAll();
  t.same([...model.enrolledNamespaces.keys()], ['shop']);
  model.put(namespace('kube-system', ENABLED), namespace('nodemesh-system', ENABLED)).settleAll();
  t.same([...model.enrolledNamespaces.keys()], ['shop'], 'what carries the node never is');
  model.put(namespace('shop', { 'nodemesh.dev/mesh': 'disabled' })).settleAll();
  t.same([...model.enrolledNamespaces.keys()], []);
  model.put(namespace('shop', ENABLED)).settleAll().remove('Namespace', 'shop').settleAll();
  t.same([...model.enrolledNamespaces.keys()], []);
  const istio = new Model({ istioLabels: true });
  istio.put(namespace('shop', { 'istio.io/dataplane-mode': 'ambient' })).settleAll();
  t.same([...istio.enrolledNamespaces.keys()], ['shop']);
  t.end();
});

t.test('a capture that is lost does not lead back to plain text', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), STRICT, web).settleAll();
  model.captured('node-a', 'u1').settleAll();
  model.world.report('node-a', [{ podUid: 'u1' as PodUid, state: 'failed', reason: 'gone' }]);
  model.settleAll();
  t.same(facts(model), [true, 'hbone', true]);
  model.world.report('node-a', []);
  model.settleAll();
  t.same(facts(model), [true, 'hbone', true]);
  t.match([...model.world.statuses()], [{ phase: 'enrolled', report: undefined }]);
  t.end();
});

t.test('another node cannot report a pod captured (T106)', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), web).settleAll();
  model.captured('node-b', 'u1').settleAll();
  t.same(facts(model), [true, 'none', false]);
  t.end();
});

t.test('a restart keeps what was published as HBONE, before any node reports', (t) => {
  const restored = new Set(['u1' as PodUid]);
  const model = new Model({ restored }).put(web, STRICT, namespace('shop', ENABLED));
  model.publish();
  t.same(facts(model), [true, 'hbone', true]);
  t.same([...model.world.tunnelledPods()], ['u1']);
  t.end();
});

t.test('changing one mind while joining or leaving ends where the labels say', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), STRICT, web).settleAll();
  model.captured('node-a', 'u1').publish();
  model.put(namespace('shop')).publish();
  t.same(facts(model), [true, 'none', false], 'announcing goes to retracting');
  model.put(namespace('shop', ENABLED)).publish();
  t.same(facts(model), [true, 'hbone', false], 'and back to announcing');
  model.settleAll();
  t.same(facts(model), [true, 'hbone', true]);
  model.put(namespace('shop')).publish();
  model.put(namespace('shop', ENABLED)).publish();
  t.same(facts(model), [true, 'hbone', true], 'relaxing back to enrolled');
  t.end();
});

t.test('a late acknowledgement of an earlier step changes nothing', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), STRICT, web).settleAll();
  model.captured('node-a', 'u1').publish();
  const [late] = model.settlements;
  model.put(namespace('shop')).publish();
  if (late !== undefined) model.world.settle(late);
  model.publish();
  t.same(facts(model), [true, 'none', false], 'still retracting');
  t.end();
});

t.test('a pod that comes back under its name inherits nothing (T10)', (t) => {
  const model = new Model().put(namespace('shop', ENABLED), web).settleAll();
  model.captured('node-a', 'u1').settleAll();
  model.put(pod('shop/web', { uid: 'u2', ip: '10.0.0.2', phase: 'Running', node: 'node-b' }));
  model.settleAll();
  t.equal(model.workload('shop/web').tunnelProtocol, 'none');
  t.equal(model.local('node-a', 'u1'), undefined);
  t.equal(model.local('node-b', 'u2')?.enrolled, true);
  model.captured('node-a', 'u2', 'u1').settleAll();
  t.equal(model.workload('shop/web').tunnelProtocol, 'none', 'the old node has no say');
  t.end();
});

t.test('pods that are captured elsewhere are published without our report', (t) => {
  const model = new Model().put(
    namespace('shop'),
    STRICT,
    pod('shop/a', {
      uid: 'a',
      ip: '10.0.0.1',
      annotations: { 'ambient.istio.io/redirection': 'enabled' },
    }),
    pod('shop/b', { uid: 'b', ip: '10.0.0.2', labels: { 'networking.istio.io/tunnel': 'http' } }),
  );
  model.settleAll();
  const seen = ['shop/a', 'shop/b'].map((path) => {
    const { tunnelProtocol, nativeTunnel, authorizationPolicies } = model.workload(path);
    return [tunnelProtocol, nativeTunnel, authorizationPolicies];
  });
  t.same(seen, [
    ['hbone', false, [STRICT_KEY]],
    ['hbone', true, [STRICT_KEY]],
  ]);
  t.equal(model.local('node-a', 'a')?.enrolled, false, 'our node leaves it alone');
  t.end();
});

t.test(
  'labels: the pod beats its namespace, ours beat Istio, some are never enrolled (T30)',
  (t) => {
    const istio = (mode: string): Record<string, string> => ({ 'istio.io/dataplane-mode': mode });
    const on = ENABLED;
    const off = { 'nodemesh.dev/mesh': 'disabled' };
    const rows: [string, object, object, boolean, boolean, boolean][] = [
      // what, namespace labels, pod labels, istioLabels, hostNetwork, wanted
      ['nothing', {}, {}, false, false, false],
      ['namespace', on, {}, false, false, true],
      ['pod', {}, on, false, false, true],
      ['pod out', on, off, false, false, false],
      ['pod in', off, on, false, false, true],
      ['unknown word', on, { 'nodemesh.dev/mesh': 'yes' }, false, false, true],
      ['istio unread', istio('ambient'), {}, false, false, false],
      ['istio', istio('ambient'), {}, true, false, true],
      ['istio out', istio('ambient'), istio('none'), true, false, false],
      ['ours first', { ...istio('ambient'), ...off }, {}, true, false, false],
      ['pod istio over namespace ours', on, istio('none'), true, false, false],
      ['host network', on, on, true, true, false],
    ];
    for (const [what, ns, labels, istioLabels, hostNetwork, wanted] of rows) {
      const object = pod('shop/web', { labels: { ...labels }, hostNetwork }) as Pod;
      const space = namespace('shop', { ...ns }) as Namespace;
      t.equal(wantsEnrolment(object, space, istioLabels), wanted, what);
    }
    for (const name of ['kube-system', 'nodemesh-system']) {
      const object = pod(`${name}/web`, { labels: on }) as Pod;
      t.equal(wantsEnrolment(object, namespace(name, on) as Namespace, true), false, name);
    }
    t.equal(wantsEnrolment(pod('shop/web') as Pod, undefined, true), false, 'no Namespace object');
    const uid = '0123456789abcdef0123456789abcdef';
    const annotations = { 'kubernetes.io/config.mirror': uid };
    const copy = pod('shop/web', { uid: 'u', labels: on, annotations }) as Pod;
    t.equal(copy.uid, uid, 'a static pod, as its node knows it');
    t.equal(wantsEnrolment(copy, namespace('shop', on) as Namespace, true), false, 'static');
    // Anybody may write the annotation: the uid of another pod in it takes nothing of that pod.
    const victim = '00000000-0000-4000-8000-000000000001';
    const claims = { 'kubernetes.io/config.mirror': victim };
    const claiming = pod('evil/pod', { uid: 'own', labels: on, annotations: claims }) as Pod;
    t.match(claiming, { uid: 'own', isStatic: false });
    t.end();
  },
);
