/** Which of the optional kinds the API server serves now, and in which version we can read them. */

import { ok, type Result } from '../base/result.ts';
import { statusOf, type ApiClient } from './api-client.ts';
import type { OptionalKind, WatchedKind } from './watched-kinds.ts';

/**
 * An error when the server could not be asked; what is served then stays unknown, never "nothing". Asks for no
 * group that is not installed: everybody may read these lists.
 */
export async function discoverKinds(
  client: ApiClient,
  wanted: readonly OptionalKind[],
): Promise<Result<WatchedKind[]>> {
  const groups = await client.request({ path: '/apis' });
  if (!groups.ok) return groups;
  const found: WatchedKind[] = [];
  const served = servedVersions(groups.value);
  const lists = new Map<string, ReadonlyMap<string, string>>();
  for (const kind of wanted) {
    for (const version of kind.versions) {
      if (served.get(kind.group)?.has(version) !== true) continue;
      const path = `/apis/${kind.group}/${version}`;
      let names = lists.get(path);
      if (names === undefined) {
        const list = await client.request({ path });
        // A group on its way out is listed a moment longer than it is served.
        if (!list.ok && statusOf(list.error) !== 404) return list;
        lists.set(path, (names = list.ok ? watchableKinds(list.value) : new Map()));
      }
      const name = names.get(kind.plural);
      if (name === undefined) continue;
      const { group, plural, required } = kind;
      found.push({ group, version, plural, kind: name, required });
      break;
    }
  }
  return ok(found);
}

interface GroupList {
  readonly groups?: readonly {
    readonly name?: unknown;
    readonly versions?: readonly { readonly version?: unknown }[];
  }[];
}

function servedVersions(value: unknown): ReadonlyMap<string, ReadonlySet<unknown>> {
  const { groups } = (value ?? {}) as GroupList;
  const found = new Map<string, ReadonlySet<unknown>>();
  for (const { name, versions } of groups ?? []) {
    if (typeof name !== 'string') continue;
    found.set(name, new Set((versions ?? []).map(({ version }) => version)));
  }
  return found;
}

interface ResourceList {
  readonly resources?: readonly {
    readonly name?: unknown;
    readonly kind?: unknown;
    readonly verbs?: readonly unknown[];
  }[];
}

/** Plural → kind. */
function watchableKinds(value: unknown): ReadonlyMap<string, string> {
  const { resources } = (value ?? {}) as ResourceList;
  const found = new Map<string, string>();
  for (const { name, kind, verbs } of resources ?? []) {
    const readable = (verbs ?? []).includes('list') && (verbs ?? []).includes('watch');
    if (typeof name === 'string' && typeof kind === 'string' && readable) found.set(name, kind);
  }
  return found;
}
