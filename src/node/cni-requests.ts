/**
 * The agent's answers to the CNI. An ADD is answered when the pod may start: captured, or known to be outside.
 *
 * - A pod of an enrolled namespace waits until the controller has told of it, and then until it is captured;
 *   what stays open is refused with the reason, never passed.
 * - A pod of another namespace may still be enrolled by its own label: it waits a moment for the controller's word.
 * - What the CNI says of the running sandbox beats what the controller says: a sandbox that is made anew has an
 *   address before anybody can report it.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { IpAddress } from '../core/address.ts';
import type { LocalPod, PodUid } from '../core/pod.ts';
import type { CniRequest } from '../redirect/cni-request.ts';
import type { PodNamespaces } from '../redirect/namespaces.ts';
import type { Capture } from './capture.ts';

/** How long an ADD may wait in all; the runtime tries again after an error. */
export const CNI_WAIT_MS = 10_000;
/** How long for the controller's word on a pod whose namespace is not enrolled. */
export const CNI_UNKNOWN_WAIT_MS = 1_000;

export interface CniRequestsOptions {
  readonly clock: Clock;
  readonly namespaces: PodNamespaces;
  readonly capture: Pick<Capture, 'setNamespace' | 'whenSettled' | 'reports'>;
  /** What the controller says of a pod, with the addresses that the CNI told. */
  readonly pod: (uid: PodUid) => LocalPod | undefined;
  readonly isEnrolled: (namespace: string) => boolean;
  /** What is known of a pod changed; it is to be looked at again. */
  readonly onTold: (uid: PodUid) => void;
}

export interface CniRequests {
  /** An ADD resolves when the pod may start; rejects with why it may not. */
  handle(request: CniRequest): Promise<void>;
  /** The addresses of the pod's sandbox, where the CNI told them. */
  addresses(uid: PodUid): readonly IpAddress[] | undefined;
  /** The controller has told of a pod. */
  podKnown(uid: PodUid): void;
  podGone(uid: PodUid): void;
}

export function createCniRequests(options: CniRequestsOptions): CniRequests {
  const { clock, namespaces, capture } = options;
  /** As many as namespaces are remembered, which is bounded there. */
  const told = new Map<PodUid, readonly IpAddress[]>();
  const waiters = new Map<PodUid, Set<() => void>>();

  const whenKnown = (uid: PodUid, limitMs: number): Promise<void> =>
    new Promise((resolve) => {
      const set = waiters.get(uid) ?? new Set();
      waiters.set(uid, set);
      const done = (): void => {
        timer.cancel();
        set.delete(done);
        if (set.size === 0) waiters.delete(uid);
        resolve();
      };
      const timer = clock.after(limitMs, done);
      set.add(done);
    });

  const add = async (request: CniRequest): Promise<void> => {
    const { podUid: uid, podName, podNamespace } = request;
    const startMs = clock.nowMs();
    const namespace = await namespaces.learn(request);
    told.set(uid, request.addresses);
    capture.setNamespace(uid, namespace);
    options.onTold(uid);
    const inMesh = options.isEnrolled(podNamespace);
    if (options.pod(uid) === undefined) {
      await whenKnown(uid, inMesh ? CNI_WAIT_MS : CNI_UNKNOWN_WAIT_MS);
    }
    const pod = options.pod(uid);
    if (pod === undefined) {
      if (!inMesh) return;
      throw tooLate(
        request,
        'the controller has not told of it; can this node reach the controller',
      );
    }
    if (pod.namespace !== podNamespace || pod.name !== podName) {
      const message = `Cannot capture pod "${podNamespace}/${podName}": its UID is that of "${pod.namespace}/${pod.name}"`;
      throw new MeshError('MESH_CNI_REQUEST_INVALID', message);
    }
    const timeout = new AbortController();
    const leftMs = Math.max(0, startMs + CNI_WAIT_MS - clock.nowMs());
    const timer = clock.after(leftMs, () => {
      const report = capture.reports.find((candidate) => candidate.podUid === uid);
      timeout.abort(tooLate(request, report?.reason ?? 'its capture has not begun'));
    });
    await capture.whenSettled(uid, timeout.signal).finally(() => timer.cancel());
  };

  const check = ({ podUid, podName, podNamespace }: CniRequest): void => {
    if (options.pod(podUid)?.enrolled !== true) return;
    const report = capture.reports.find((candidate) => candidate.podUid === podUid);
    if (report?.state === 'captured') return;
    const reason = report?.reason ?? 'nothing is known of its capture';
    const message = `Pod "${podNamespace}/${podName}" is in the mesh and not captured: ${reason}`;
    throw new MeshError('MESH_RULES_FAILED', message, { retryable: true });
  };

  const del = async ({ podUid, containerId }: CniRequest): Promise<void> => {
    // Runtimes say DEL twice, and again when they clear up, long after the pod has another sandbox.
    if (await namespaces.forget(podUid, containerId)) told.delete(podUid);
    const known = options.pod(podUid) !== undefined;
    capture.setNamespace(podUid, known ? await namespaces.find(podUid) : undefined);
  };

  return {
    async handle(request) {
      if (request.command === 'add') await add(request);
      else if (request.command === 'del') await del(request);
      else check(request);
    },
    addresses: (uid) => told.get(uid),
    podKnown(uid) {
      for (const done of waiters.get(uid) ?? []) done();
    },
    podGone(uid) {
      told.delete(uid);
    },
  };
}

function tooLate({ podNamespace, podName }: CniRequest, reason: string): MeshError {
  const message = `Cannot capture pod "${podNamespace}/${podName}" in ${CNI_WAIT_MS / 1000} s: ${reason}`;
  return new MeshError('MESH_DEADLINE_EXCEEDED', message, { retryable: true });
}
