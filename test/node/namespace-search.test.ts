/** Who waits for a search has every pod looked for, those included that come while it runs. */

import t from 'tap';

import { createNullLogger } from '../../src/base/logger.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { createNamespaceSearch } from '../../src/node/namespace-search.ts';
import type { PodNamespace } from '../../src/redirect/namespaces.ts';

const uid = (name: string): PodUid => name as PodUid;
const NAMESPACE: PodNamespace = { netnsPath: '/proc/1/ns/net', netnsInode: 1 };

/** Finds what is in `there`, and notes each look. */
function createRig(there: readonly string[]) {
  const homeless = new Set<PodUid>();
  const looks: string[] = [];
  let onLook: () => void = () => {};
  const search = createNamespaceSearch({
    logger: createNullLogger(),
    wanted: () => homeless,
    found: (pod) => void homeless.delete(pod),
    namespaces: {
      async findAll(pods) {
        looks.push([...pods].join());
        onLook();
        await new Promise((resolve) => void setImmediate(resolve));
        return new Map(
          [...pods].filter((pod) => there.includes(pod)).map((pod) => [pod, NAMESPACE]),
        );
      },
    },
  });
  return { homeless, looks, search, onEachLook: (act: () => void) => void (onLook = act) };
}

t.test('pods that become known in one go are looked for together', async (t) => {
  const { homeless, looks, search } = createRig(['a', 'b']);
  homeless.add(uid('a'));
  const first = search();
  homeless.add(uid('b'));
  const second = search();
  await Promise.all([first, second]);
  t.same(looks, ['a,b']);
  t.equal(homeless.size, 0);
});

t.test(
  'a pod that comes while one is looked for that is gone: the search ends when it is found',
  async (t) => {
    const { homeless, looks, search, onEachLook } = createRig(['here']);
    homeless.add(uid('gone'));
    let joined: Promise<void> | undefined;
    onEachLook(() => {
      if (joined !== undefined) return;
      homeless.add(uid('here'));
      joined = search();
    });
    await search();
    t.same([...homeless], ['gone']);
    t.same(looks, ['gone', 'here'], 'and the other is looked for once');
    await joined;
    await search();
    t.same(looks, ['gone', 'here', 'gone'], 'until the next search');
  },
);

t.test('nobody is wanted: nobody is looked for; a look that fails ends the search', async (t) => {
  const { homeless, looks, search, onEachLook } = createRig(['a']);
  await search();
  t.same(looks, []);
  homeless.add(uid('a'));
  onEachLook(() => {
    throw new Error('no /proc');
  });
  await search();
  t.same([...homeless], ['a']);
  onEachLook(() => {});
  await search();
  t.equal(homeless.size, 0);
});
