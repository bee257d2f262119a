import t from 'tap';

import {
  CONTROLLER_CLUSTER_RULES,
  CONTROLLER_NAMESPACE_RULES,
  GATEWAY_RESOURCES,
  OWN_RESOURCES,
} from '../../src/kubernetes/rbac.ts';
import { BUILT_IN_KINDS, optionalKinds } from '../../src/kubernetes/watched-kinds.ts';

t.test('everything that is watched may be listed and watched, and nothing is a wildcard', (t) => {
  const kinds = [...BUILT_IN_KINDS, ...optionalKinds(OWN_RESOURCES, GATEWAY_RESOURCES)];
  for (const { group, plural } of kinds) {
    const rules = CONTROLLER_CLUSTER_RULES.filter(
      ({ apiGroups, resources }) => apiGroups.includes(group) && resources.includes(plural),
    );
    const verbs = rules.flatMap((rule) => rule.verbs);
    t.ok(verbs.includes('list') && verbs.includes('watch'), `${plural}.${group}`);
  }
  for (const rule of [...CONTROLLER_CLUSTER_RULES, ...CONTROLLER_NAMESPACE_RULES]) {
    const words = [...rule.apiGroups, ...rule.resources, ...rule.verbs];
    t.notOk(words.includes('*'), rule.why);
  }
  t.end();
});

t.test('no Secret but the CA’s may be read, and none outside the own namespace', (t) => {
  const isSecrets = ({ resources }: { resources: readonly string[] }): boolean =>
    resources.includes('secrets');
  t.notOk(CONTROLLER_CLUSTER_RULES.some(isSecrets));
  for (const { verbs, resourceNames } of CONTROLLER_NAMESPACE_RULES.filter(isSecrets)) {
    if (resourceNames === undefined) t.same(verbs, ['create']);
  }
  t.end();
});
