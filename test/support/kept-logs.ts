/**
 * Logs of the mesh's own pods on the tests' cluster, for whoever has to find out why a file failed. The kubelet deletes
 * a pod's logs with the pod, and the one that a test replaced is often the one to ask: so each log gets a second name
 * within a second of its first, and what a failed file's time holds is copied to a folder that outlives the cluster.
 */

import {
  globSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';

/** `node/var-log/pods/NAMESPACE_POD_UID/CONTAINER/RESTARTS.log`, as the kubelet names them. */
const POD_LOGS = '*/var-log/pods/nodemesh-system_*/*/*.log';
const LOOK_MS = 1_000;
/** A file's time is that of the last tick, and may lie before what was written. */
const COARSE_MS = 100;
/** Of warnings, the last. */
const TOLD_MAX = 20;
const TOLD_LINE_MAX = 400;

export interface FailureLogs {
  readonly folder: string;
  /** The last warnings and errors, oldest first, each after the name of its pod. */
  readonly warnings: readonly string[];
}

export interface KeptLogs {
  /**
   * Copies every line written since `sinceMs` into `folder`, a file for each container, which takes the place of what
   * an earlier failure left there. Undefined: nobody wrote anything.
   */
  copy(sinceMs: number, folder: string): FailureLogs | undefined;
  stop(): void;
}

interface Line {
  readonly atMs: number;
  readonly pod: string;
  readonly text: string;
}

/** Lines of a log in CRI's form: `TIME stdout F TEXT`. */
function linesSince(path: string, pod: string, sinceMs: number): Line[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [time = ''] = line.split(' ', 1);
      const atMs = Date.parse(time);
      return atMs >= sinceMs ? [{ atMs, pod, text: line }] : [];
    });
}

/** `clusterDir`: of the tests' cluster, whose file system `log/mesh` in it shares with the nodes' disks. */
export function keepLogs(clusterDir: string): KeptLogs {
  const kept = join(clusterDir, 'log/mesh');
  mkdirSync(kept, { recursive: true });
  const look = (): void => {
    for (const path of globSync(join(clusterDir, POD_LOGS))) {
      const [restarts = '', container = '', pod = ''] = path.split('/').toReversed();
      const name = pod.split('_')[1] ?? pod;
      try {
        // A rotated log is another file under the same name.
        const { ino } = statSync(path);
        linkSync(path, join(kept, `${name}_${container}_${basename(restarts, '.log')}_${ino}.log`));
      } catch {
        // Linked before, or deleted meanwhile.
      }
    }
  };
  look();
  const timer = setInterval(look, LOOK_MS);
  timer.unref();
  return {
    copy(sinceMs, folder) {
      look();
      const all: Line[] = [];
      rmSync(folder, { recursive: true, force: true });
      for (const path of globSync(join(kept, '*.log'))) {
        if (statSync(path).mtimeMs < sinceMs - COARSE_MS) continue;
        const name = basename(path);
        const lines = linesSince(path, name.split('_')[0] ?? name, sinceMs);
        if (lines.length === 0) continue;
        mkdirSync(folder, { recursive: true });
        writeFileSync(join(folder, name), `${lines.map(({ text }) => text).join('\n')}\n`);
        all.push(...lines);
      }
      if (all.length === 0) return undefined;
      const warnings = all
        .filter(({ text }) => /"level":"(?:warn|error|fatal)"| stderr F /.test(text))
        .toSorted((a, b) => a.atMs - b.atMs)
        .slice(-TOLD_MAX)
        .map(({ pod, text }) => `${pod}: ${text}`.slice(0, TOLD_LINE_MAX));
      return { folder, warnings };
    },
    stop: () => clearInterval(timer),
  };
}
