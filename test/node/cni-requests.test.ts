/** The agent's answers to the CNI: who waits, for how long, and who is refused with which words. */

import t, { type Test } from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { parseAddress } from '../../src/core/address.ts';
import type { CaptureReport, LocalPod, PodUid } from '../../src/core/pod.ts';
import {
  CNI_UNKNOWN_WAIT_MS,
  CNI_WAIT_MS,
  createCniRequests,
} from '../../src/node/cni-requests.ts';
import type { CniCommand, CniRequest } from '../../src/redirect/cni-request.ts';
import type { PodNamespace } from '../../src/redirect/namespaces.ts';

const UID = 'u1' as PodUid;
const NEW_IP = unwrap(parseAddress('10.244.1.9'));
const OLD_IP = unwrap(parseAddress('10.244.1.5'));

function localPod(enrolled: boolean, name = 'web'): LocalPod {
  return {
    podUid: UID,
    name,
    namespace: 'shop',
    serviceAccount: 'web',
    trustDomain: 'cluster.local',
    workloadUid: 'w',
    addresses: [OLD_IP],
    enrolled,
    probePorts: [],
  };
}

function request(command: CniCommand, containerId = 'c1'): CniRequest {
  return {
    command,
    containerId,
    netnsPath: '/run/netns/a',
    podUid: UID,
    podName: 'web',
    podNamespace: 'shop',
    addresses: [NEW_IP],
  };
}

function setUp(_t: Test) {
  const clock = createFakeClock(0);
  const found: PodNamespace = { netnsPath: '/proc/7/ns/net', netnsInode: 7 };
  const state = {
    pod: undefined as LocalPod | undefined,
    inMesh: true,
    remembered: '',
    namespace: undefined as PodNamespace | undefined,
    told: 0,
    reports: [] as CaptureReport[],
    captured: () => {},
  };
  const cni = createCniRequests({
    clock,
    namespaces: {
      find: () => Promise.resolve(found),
      findAll: () => Promise.resolve(new Map()),
      learn(learned) {
        state.remembered = learned.containerId;
        return Promise.resolve({ netnsPath: learned.netnsPath, netnsInode: 1 });
      },
      forget(_, containerId) {
        const was = state.remembered === containerId;
        if (was) state.remembered = '';
        return Promise.resolve(was);
      },
      keepOnly: () => Promise.resolve(),
    },
    capture: {
      get reports() {
        return state.reports;
      },
      setNamespace: (_, namespace) => (state.namespace = namespace),
      whenSettled: (_, signal) =>
        new Promise((resolve, reject) => {
          if (state.pod?.enrolled !== true) resolve();
          state.captured = resolve;
          signal.addEventListener('abort', () => reject(signal.reason));
        }),
    },
    pod: () => state.pod,
    isEnrolled: () => state.inMesh,
    onTold: () => state.told++,
  });
  const settle = async (): Promise<void> => {
    await clock.advance(0);
  };
  return { clock, state, cni, settle, found };
}

t.test('a pod of an enrolled namespace waits for the word, then for its capture', async (t) => {
  const { state, cni, settle } = setUp(t);
  const done: string[] = [];
  const adding = cni.handle(request('add')).then(() => done.push('answered'));
  await settle();
  t.same(done, []);
  t.same(state.namespace, { netnsPath: '/run/netns/a', netnsInode: 1 });
  t.same(cni.addresses(UID), [NEW_IP], 'what the CNI gave this sandbox');
  state.pod = localPod(true);
  cni.podKnown(UID);
  await settle();
  t.same(done, [], 'known, not captured');
  state.captured();
  await adding;
  t.same(done, ['answered']);
  cni.podGone(UID);
  t.equal(cni.addresses(UID), undefined);
});

t.test('what does not come in time is refused with the reason', async (t) => {
  const { clock, state, cni, settle } = setUp(t);
  const untold = cni.handle(request('add'));
  await settle();
  void clock.advance(CNI_WAIT_MS);
  await t.rejects(untold, {
    code: 'MESH_DEADLINE_EXCEEDED',
    message:
      'Cannot capture pod "shop/web" in 10 s: the controller has not told of it; can this node reach the controller',
  });
  state.pod = localPod(true);
  state.reports = [{ podUid: UID, state: 'pending', reason: 'waiting for the certificate' }];
  const uncaptured = cni.handle(request('add'));
  await settle();
  void clock.advance(CNI_WAIT_MS);
  await t.rejects(uncaptured, {
    code: 'MESH_DEADLINE_EXCEEDED',
    message: 'Cannot capture pod "shop/web" in 10 s: waiting for the certificate',
  });
  state.pod = localPod(true, 'other');
  await t.rejects(cni.handle(request('add')), {
    code: 'MESH_CNI_REQUEST_INVALID',
    message: 'Cannot capture pod "shop/web": its UID is that of "shop/other"',
  });
  t.equal(clock.pendingCount(), 0);
});

t.test('a pod outside is not delayed; an unknown one a moment, for its own label', async (t) => {
  const { clock, state, cni, settle } = setUp(t);
  state.inMesh = false;
  state.pod = localPod(false);
  await cni.handle(request('add'));
  t.equal(clock.pendingCount(), 0, 'without a wait');
  state.pod = undefined;
  let done = false;
  const unknown = cni.handle(request('add')).then(() => (done = true));
  await settle();
  t.equal(done, false);
  await clock.advance(CNI_UNKNOWN_WAIT_MS);
  await unknown;
  state.pod = undefined;
  const labelled = cni.handle(request('add'));
  await settle();
  state.pod = localPod(true);
  cni.podKnown(UID);
  await settle();
  state.captured();
  await labelled;
  t.equal(clock.pendingCount(), 0);
});

t.test('DEL of an older sandbox leaves the newer one alone', async (t) => {
  const { state, cni, found } = setUp(t);
  state.pod = localPod(false);
  await cni.handle(request('add', 'c1'));
  await cni.handle(request('add', 'c2'));
  await cni.handle(request('del', 'c1'));
  t.same(state.namespace, found, 'what its processes say');
  t.same(cni.addresses(UID), [NEW_IP]);
  await cni.handle(request('del', 'c2'));
  t.equal(cni.addresses(UID), undefined);
  state.pod = undefined;
  await cni.handle(request('del', 'c2'));
  t.equal(state.namespace, undefined);
});

t.test('CHECK vouches for what is captured, and for nothing else', async (t) => {
  const { state, cni } = setUp(t);
  await cni.handle(request('check'));
  state.pod = localPod(false);
  await cni.handle(request('check'));
  state.pod = localPod(true);
  await t.rejects(cni.handle(request('check')), {
    code: 'MESH_RULES_FAILED',
    message: 'Pod "shop/web" is in the mesh and not captured: nothing is known of its capture',
  });
  state.reports = [{ podUid: UID, state: 'failed', reason: 'nft is missing' }];
  await t.rejects(cni.handle(request('check')), { message: /not captured: nft is missing$/ });
  state.reports = [{ podUid: UID, state: 'captured', reason: '' }];
  await cni.handle(request('check'));
});
