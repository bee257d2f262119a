/**
 * Which pod a process belongs to, from `/proc/PID/cgroup`. The kubelet names a pod's cgroup after its UID; the
 * runtime puts the pod's processes below it. Accepted forms, all seen on real nodes:
 *
 * - cgroupfs driver: `/kubepods/burstable/pod<uid>/<container>`, also below a `cgroupRoot`;
 * - systemd driver: `/kubepods.slice/…/kubepods-burstable-pod<uid with _ for ->.slice/…`;
 * - static pods: a UID of 32 hexadecimal digits without dashes;
 * - read from inside a cgroup namespace: `/../../pod<uid>/…`.
 */

import type { PodUid } from '../core/pod.ts';

/** `/proc/PID/cgroup` has one line per hierarchy; the kernel has 12 of version 1. */
const LINES_MAX = 64;
const HEX = '[0-9a-f]';
const COMPONENT = new RegExp(
  `^(?:kubepods(?:-[a-z]+)*-)?pod(${HEX}{8}(?:([-_])${HEX}{4}\\2${HEX}{4}\\2${HEX}{4}\\2${HEX}{12})|${HEX}{32})(?:\\.slice)?$`,
);

/**
 * The UID of the pod that a process with this `/proc/PID/cgroup` belongs to, or `undefined`. The first component
 * that names a pod counts: what follows it is the pod's own and may imitate another pod. Hierarchies that
 * name different pods are nobody's.
 */
export function podUidOfCgroup(text: string): PodUid | undefined {
  const found = new Set<string>();
  for (const line of text.split('\n', LINES_MAX)) {
    // `hierarchy:controllers:path`; a path may contain colons.
    const path = line.split(':').slice(2).join(':');
    for (const component of path.split('/')) {
      const uid = COMPONENT.exec(component)?.[1];
      if (uid === undefined) continue;
      found.add(uid.replaceAll('_', '-'));
      break;
    }
  }
  const [uid] = found;
  return found.size === 1 ? (uid as PodUid) : undefined;
}

/** The start time of a process in clock ticks since boot, from `/proc/PID/stat`. */
export function startTimeOfStat(text: string): number | undefined {
  // The second field is the program's name in parentheses and may itself contain both spaces and parentheses.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[19]);
  return Number.isSafeInteger(ticks) && ticks >= 0 && fields.length > 19 ? ticks : undefined;
}
