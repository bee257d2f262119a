/** A cluster in memory: objects by path, programs that answer what they are told to, and a log of what was changed. */

import { MeshError } from '../../src/base/errors.ts';
import type { Cluster, ExecOutcome, PodRef } from '../../src/cli/cluster.ts';

export interface FakeCluster extends Cluster {
  /** By path; a test may change it at any time. */
  readonly objects: Map<string, Record<string, unknown>>;
  /** `VERB PATH`, in order. */
  readonly changes: string[];
  /** Called after each change, as the controllers of Kubernetes would act. */
  onChange: (change: string) => void;
}

export interface FakeOptions {
  readonly objects?: Readonly<Record<string, Record<string, unknown>>>;
  /** What `nodemesh admin` prints in a pod; undefined: the pod cannot be reached. */
  readonly admin?: (pod: PodRef, paths: readonly string[]) => unknown;
}

/** Items of a list are the objects one level below it, in any namespace when the path names none. */
function isIn(listPath: string, path: string): boolean {
  const resource = listPath.split('/').at(-1) ?? '';
  const base = listPath.slice(0, -resource.length);
  const rest = path.startsWith(base)
    ? path.slice(base.length).replace(/^namespaces\/[^/]+\/(?=.)/, '')
    : '';
  const [kind, name, ...more] = rest.split('/');
  if (listPath.endsWith('/namespaces')) {
    return path.startsWith(`${listPath}/`) && !path.slice(listPath.length + 1).includes('/');
  }
  return kind === resource && name !== undefined && more.length === 0;
}

function matches(object: Record<string, unknown>, selector: string): boolean {
  const { labels = {} } = (object['metadata'] ?? {}) as { labels?: Record<string, string> };
  return selector.split(',').every((term) => {
    const [key = '', value] = term.split('=');
    return value === undefined ? key in labels : labels[key] === value;
  });
}

/** As a JSON merge patch: null takes away. */
function mergeInto(target: Record<string, unknown>, patch: Record<string, unknown>): void {
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete target[key];
    else if (typeof value === 'object' && !Array.isArray(value)) {
      const inner = (target[key] ??= {}) as Record<string, unknown>;
      mergeInto(inner, value as Record<string, unknown>);
    } else target[key] = value;
  }
}

export function unreachable(): MeshError {
  return new MeshError('MESH_API_UNREACHABLE', 'Cannot GET "/": connect ECONNREFUSED', {
    retryable: true,
  });
}

export function createFakeCluster(options: FakeOptions = {}): FakeCluster {
  const objects = new Map(Object.entries(structuredClone(options.objects ?? {})));
  const changes: string[] = [];
  const changed = (change: string): void => {
    changes.push(change);
    fake.onChange(change);
  };
  const fake: FakeCluster = {
    context: 'test',
    namespace: 'default',
    objects,
    changes,
    onChange: () => {},
    get: async (path) => objects.get(path),
    list: async (path, query = {}) =>
      [...objects]
        .filter(([at]) => isIn(path, at))
        .map(([, object]) => object)
        .filter(
          (object) =>
            matches(object, query['labelSelector'] ?? '') || query['labelSelector'] === undefined,
        ),
    create: async (path) => {
      changed(`create ${path}`);
      return { status: { allowed: true } };
    },
    async apply(path, body) {
      objects.set(path, structuredClone(body) as Record<string, unknown>);
      changed(`apply ${path}`);
      return body;
    },
    async merge(path, body) {
      const object = objects.get(path);
      if (object === undefined)
        throw new MeshError('MESH_API_REFUSED', `Cannot PATCH "${path}": 404`);
      mergeInto(object, body as Record<string, unknown>);
      changed(`merge ${path}`);
      return object;
    },
    async remove(path) {
      const wasThere = objects.delete(path);
      if (wasThere) changed(`remove ${path}`);
      return wasThere;
    },
    async exec(pod, command): Promise<ExecOutcome> {
      const answer = options.admin?.(pod, command.slice(command.indexOf('GET') + 1));
      if (answer === undefined) {
        throw new MeshError(
          'MESH_API_UNREACHABLE',
          `Cannot run a program in pod "${pod.name}": no route`,
        );
      }
      return { exitCode: 0, stdout: JSON.stringify(answer), stderr: '' };
    },
  };
  return fake;
}
