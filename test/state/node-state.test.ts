import t from 'tap';

import type { CapturedPod, PodUid } from '../../src/core/pod.ts';
import type { Policy } from '../../src/core/policy.ts';
import type { CapturedChange, NodeState } from '../../src/state/contract.ts';
import { createAuthorizer } from '../../src/policy/authorizer.ts';
import { CART, exact, facts, policy, rule, WEB } from '../policy/build.ts';
import {
  at,
  capturedPod,
  emptyState,
  ip,
  localPod,
  NETWORK,
  service,
  SETTINGS,
  stateWith,
  workload,
} from './build.ts';

void t.test(
  'an address that is claimed twice goes to the tunnelled, healthy one and back (T47)',
  async (t) => {
    const old = workload('old', { addresses: ['10.1.0.2'], healthy: false });
    const plain = workload('a-plain', { addresses: ['10.1.0.2'], tunnelProtocol: 'none' });
    const fresh = workload('young', { addresses: ['10.1.0.2', '10.1.0.2'] });
    const state = stateWith([]);
    const owner = (): string | undefined =>
      state.workloads.atAddress(NETWORK, ip('10.1.0.2'))?.name;
    state.applyAddresses({ workloads: [plain] });
    t.equal(owner(), 'a-plain');
    state.applyAddresses({ workloads: [old] });
    t.equal(owner(), 'old');
    state.applyAddresses({ workloads: [fresh] });
    t.equal(owner(), 'young');
    state.applyAddresses({ removed: [old.uid] });
    t.equal(owner(), 'young');
    state.applyAddresses({ removed: [fresh.uid] });
    t.equal(owner(), 'a-plain');
    state.applyAddresses({ workloads: [{ ...plain, addresses: [ip('10.1.0.3')] }] });
    t.equal(owner(), undefined);
    t.equal(state.workloads.atAddress(NETWORK, ip('10.1.0.3'))?.name, 'a-plain');
  },
);

void t.test('names in upserts and removals of one batch count as upserted', async (t) => {
  const pod = workload('a', { addresses: ['10.1.0.2'] });
  const cart = service('cart', { vips: ['10.96.0.1'] });
  const state = stateWith([pod], [cart]);
  state.applyAddresses({ workloads: [pod], services: [cart], removed: [pod.uid, cart.key] });
  t.equal(state.workloads.size, 1);
  t.equal(state.services.size, 1);
  state.applyAddresses({ removed: [pod.uid, cart.key, 'nobody', 'net1/10.9.9.9'] });
  t.equal(state.workloads.size, 0);
  t.equal(state.services.size, 0);
});

void t.test('workload listeners hear changes after the whole batch, and stop', async (t) => {
  const pod = workload('a', { addresses: ['10.1.0.2'] });
  const state = stateWith([]);
  const heard: (string | undefined)[] = [];
  const stop = state.onWorkloadChange(pod.uid, (now) => {
    heard.push(now?.node);
    t.equal(state.services.size, heard.length === 1 ? 1 : state.services.size);
  });
  state.applyAddresses({ workloads: [pod], services: [service('cart')] });
  state.applyAddresses({ workloads: [workload('b'), { ...pod, node: 'node9' }] });
  state.applyAddresses({ removed: [pod.uid] });
  t.same(heard, ['node1', 'node9', undefined]);
  stop();
  stop();
  state.applyAddresses({ workloads: [pod] });
  t.equal(heard.length, 3);
});

void t.test('policy views index by key and scope and tell of changes only', async (t) => {
  const { state } = emptyState();
  let changes = 0;
  state.onPolicyChange(() => changes++);
  const names = (found: Iterable<Policy>): string[] => [...found].map((entry) => entry.key);
  const global = policy('/mesh', { scope: 'GLOBAL' });
  const inShop = policy('shop/ns');
  const selected = policy('shop/sel', { scope: 'WORKLOAD_SELECTOR' });
  state.applyPolicies({ policies: [global, inShop, selected] });
  t.equal(changes, 1);
  t.same(names(state.policies.globals()), ['/mesh']);
  t.same(names(state.policies.inNamespace('shop')), ['shop/ns']);
  t.equal(state.policies.get('shop/sel'), selected);
  t.equal(state.policies.size, 3);
  state.applyPolicies({ policies: [{ ...inShop, scope: 'WORKLOAD_SELECTOR' }] });
  t.same(names(state.policies.inNamespace('shop')), []);
  state.applyPolicies({ removed: ['nobody/none'] });
  t.equal(changes, 2);
  t.equal(state.policiesSynced, false);
  state.markPoliciesSynced();
  state.markPoliciesSynced();
  t.equal(state.policiesSynced, true);
  t.equal(changes, 3);
});

void t.test('a policy that changes between ALLOW and AUDIT is never lost in between', async (t) => {
  const { state } = emptyState();
  state.markPoliciesSynced();
  const web = workload('web', { addresses: ['10.1.0.9'] });
  const authorizer = createAuthorizer(state.policies);
  const verdict = (): boolean => authorizer.decide(facts(WEB), web).allowed;
  state.applyPolicies({ policies: [policy('shop/p')] });
  t.equal(verdict(), false, 'an ALLOW without rules');
  state.applyAuditPolicies({ policies: [policy('shop/p', { action: 'AUDIT' })] });
  t.equal(verdict(), false, 'in both: the enforced one counts');
  t.equal(state.policies.get('shop/p')?.action, 'ALLOW');
  state.applyPolicies({ removed: ['shop/p'] });
  t.equal(verdict(), true);
  t.equal(state.policies.get('shop/p')?.action, 'AUDIT');
  t.equal([...state.policies.all()].length, 1);
});

void t.test(
  'an authorizer over the state denies until the snapshot and what is named too early (T103)',
  async (t) => {
    const { state } = emptyState();
    const authorizer = createAuthorizer(state.policies);
    const db = workload('db', { authorizationPolicies: ['shop/late'] });
    t.equal(authorizer.decide(facts(WEB), db).code, 'MESH_CONFIG_UNAVAILABLE');
    state.markPoliciesSynced();
    t.equal(authorizer.decide(facts(WEB), db).code, 'MESH_POLICY_UNKNOWN');
    const late = policy('shop/late', { scope: 'WORKLOAD_SELECTOR', rules: [{ clauses: [] }] });
    state.applyPolicies({ policies: [late] });
    t.equal(authorizer.decide(facts(WEB), db).allowed, true);
  },
);

void t.test(
  'pods are found by UID, address and workload; a doubly claimed address is nobody (T47)',
  async (t) => {
    const { state } = emptyState();
    const changes: CapturedChange[] = [];
    state.onCapturedChange((change) => changes.push(change));
    const a = capturedPod('a', '10.1.0.2');
    const b = capturedPod('b', '10.1.0.2');
    state.applyLocalPods({ pods: [a.pod, localPod('c')] });
    state.applyCapturedPods({ pods: [a] });
    t.equal(state.pods.capturedByIp(ip('10.1.0.2')), a);
    t.equal(state.pods.capturedByWorkload(a.pod.workloadUid), a);
    state.applyCapturedPods({ pods: [b] });
    t.equal(state.pods.capturedByIp(ip('10.1.0.2')), undefined);
    state.applyCapturedPods({ removed: [a.pod.podUid] });
    t.equal(state.pods.capturedByIp(ip('10.1.0.2')), b);
    t.equal(state.pods.capturedByWorkload(a.pod.workloadUid), undefined);
    state.applyCapturedPods({ removed: [a.pod.podUid] });
    t.equal(changes.length, 3);
    t.same(changes[2], { added: [], removed: [a] });
    t.equal([...state.pods.localPods()].length, 2);
    state.applyLocalPods({ removed: ['uid-c' as PodUid] });
    t.equal(state.pods.local('uid-c' as PodUid), undefined);
    t.equal(state.pods.captured(b.pod.podUid), b);
    t.same([...state.pods.capturedPods()], [b]);
  },
);

void t.test('settings and trust bundles are kept and told', async (t) => {
  const { state } = emptyState();
  const heard: string[] = [];
  state.onSettingsChange((settings) => heard.push(settings.node));
  state.onTrustChange((name) => heard.push(name));
  t.equal(state.settings, undefined);
  state.applySettings(SETTINGS);
  state.applyTrustBundle('cluster.local', Buffer.from('roots'));
  t.equal(state.settings, SETTINGS);
  t.same(state.trustBundles.get('cluster.local'), Buffer.from('roots'));
  state.applyTrustBundle('cluster.local', undefined);
  t.equal(state.trustBundles.size, 0);
  t.same(heard, ['node1', 'cluster.local', 'cluster.local']);
});

interface SameNode {
  readonly state: NodeState;
  readonly source: CapturedPod;
  readonly target: CapturedPod;
}

function sameNode(sourceMay: boolean, targetMay: boolean): SameNode {
  const { state } = emptyState();
  const source = capturedPod('web', '10.1.0.2');
  const target = capturedPod('db', '10.1.0.3');
  state.applySettings(SETTINGS);
  state.applyCapturedPods({ pods: [source, target] });
  state.applyAddresses({
    workloads: [
      workload('web', { addresses: ['10.1.0.2'], localDelivery: sourceMay }),
      workload('db', { addresses: ['10.1.0.3'], localDelivery: targetMay }),
    ],
  });
  return { state, source, target };
}

void t.test(
  'sameNodeTarget joins two captured pods only where nothing forbids it (design 3.6)',
  async (t) => {
    const db = (state: NodeState) => state.workloads.get('cluster1//Pod/shop/db')!;
    for (const [sourceMay, targetMay] of [
      [true, true],
      [true, false],
      [false, true],
    ] as const) {
      const { state, source, target } = sameNode(sourceMay, targetMay);
      const found = state.sameNodeTarget(source, db(state), at('10.1.0.3'));
      t.equal(found, sourceMay && targetMay ? target : undefined);
    }
    const { state, source, target } = sameNode(true, true);
    t.equal(state.sameNodeTarget(source, db(state), at('10.1.0.4')), undefined, 'another address');
    const other = { ...db(state), serviceAccount: 'other' };
    t.equal(
      state.sameNodeTarget(source, other, at('10.1.0.3')),
      undefined,
      'another identity (T47)',
    );
    state.applySettings({ ...SETTINGS, localDelivery: 'tunnel' });
    t.equal(state.sameNodeTarget(source, db(state), at('10.1.0.3')), undefined, 'tunnel always');
    state.applySettings(SETTINGS);
    t.equal(state.sameNodeTarget(source, db(state), at('10.1.0.3')), target);
    t.equal(
      state.sameNodeTarget(source, workload('far'), at('10.1.0.3')),
      undefined,
      'not captured here',
    );
    state.applyCapturedPods({ removed: [source.pod.podUid] });
    t.equal(state.sameNodeTarget(source, db(state), at('10.1.0.3')), undefined, 'source is gone');
    const { state: unset, source: from } = sameNode(true, true);
    unset.applyAddresses({ removed: [from.pod.workloadUid] });
    t.equal(
      unset.sameNodeTarget(from, db(unset), at('10.1.0.3')),
      undefined,
      'source workload unknown',
    );
  },
);

void t.test(
  'no order of workload, policy and service messages opens a gap (T103, F07)',
  async (t) => {
    const db = workload('db', { addresses: ['10.1.0.3'], authorizationPolicies: ['shop/db-only'] });
    const allowCart = policy('shop/db-only', {
      scope: 'WORKLOAD_SELECTOR',
      rules: [rule({ principals: [exact(CART.slice('spiffe://'.length))] })],
    });
    type Message = (state: NodeState) => void;
    const messages: Message[] = [
      (state) => state.applyAddresses({ workloads: [db] }),
      (state) => state.applyPolicies({ policies: [allowCart] }),
      (state) => state.applyAddresses({ services: [service('db', { vips: ['10.96.0.9'] })] }),
      (state) => state.markPoliciesSynced(),
      (state) => state.applyPolicies({ removed: ['shop/db-only'] }),
      (state) => state.applyPolicies({ policies: [allowCart] }),
    ];
    const orders = (left: Message[]): Message[][] =>
      left.length === 0
        ? [[]]
        : left.flatMap((first) =>
            orders(left.filter((other) => other !== first)).map((rest) => [first, ...rest]),
          );
    let checked = 0;
    for (const order of orders(messages)) {
      const { state } = emptyState();
      const authorizer = createAuthorizer(state.policies);
      for (const message of order) {
        message(state);
        const known = state.workloads.get(db.uid);
        if (known === undefined) continue;
        checked++;
        if (authorizer.decide(facts(WEB), known).allowed) t.fail('web reached db');
        const cart = authorizer.decide(facts(CART), known).allowed;
        const complete = state.policiesSynced && state.policies.get('shop/db-only') !== undefined;
        if (cart !== complete) t.fail(`cart is ${cart ? 'allowed' : 'denied'}`);
      }
    }
    t.equal(checked, 720 * 3.5);
  },
);
