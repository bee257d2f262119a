/**
 * Who may do what at the API: service accounts, roles and bindings. No rule has a wildcard. The node proxies' account
 * has no rule at all.
 */

import {
  CONTROLLER_CLUSTER_RULES,
  CONTROLLER_NAMESPACE_RULES,
  OWN_RESOURCES,
  type PolicyRule,
} from '../../kubernetes/rbac.ts';
import { CONTROLLER, metadata, NAMESPACE, NODE, type KubeObject } from './kube-object.ts';

/** A rule of RBAC. */
interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
}

const READ = ['get', 'list', 'watch'] as const;

/** The controller's needs are data beside the code that has them; the reasons are for its readers. */
function ruleOf({ apiGroups, resources, resourceNames, verbs }: PolicyRule): Rule {
  const names = resourceNames === undefined ? {} : { resourceNames };
  return { apiGroups, resources, ...names, verbs };
}

function account(name: string, component: 'controller' | 'node', version: string): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: metadata(name, component, version),
    // The controller's pod asks for its token itself; nobody else gets one by mistake.
    automountServiceAccountToken: component === 'controller',
  };
}

const RBAC = 'rbac.authorization.k8s.io';

function bindings(version: string): KubeObject[] {
  const subjects = [{ kind: 'ServiceAccount', name: CONTROLLER, namespace: NAMESPACE }];
  return [
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: metadata(CONTROLLER, 'controller', version, 'cluster'),
      roleRef: { apiGroup: RBAC, kind: 'ClusterRole', name: CONTROLLER },
      subjects,
    },
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'RoleBinding',
      metadata: metadata(CONTROLLER, 'controller', version),
      roleRef: { apiGroup: RBAC, kind: 'Role', name: CONTROLLER },
      subjects,
    },
  ];
}

/** Lets those who may view or edit a namespace do the same with our kinds in it. Mesh-wide settings are only viewed. */
function aggregateRoles(version: string): KubeObject[] {
  const role = (roleName: string, to: readonly string[], rules: readonly Rule[]): KubeObject => {
    const { labels, ...rest } = metadata(roleName, 'mesh', version, 'cluster');
    const aggregate = to.map((name) => [`rbac.authorization.k8s.io/aggregate-to-${name}`, 'true']);
    return {
      apiVersion: `${RBAC}/v1`,
      kind: 'ClusterRole',
      metadata: { ...rest, labels: { ...labels, ...Object.fromEntries(aggregate) } },
      rules,
    };
  };
  const editable = OWN_RESOURCES.filter((resource) => resource !== 'meshconfigs');
  return [
    role(
      'nodemesh-view',
      ['view', 'edit', 'admin'],
      [{ apiGroups: ['nodemesh.dev'], resources: OWN_RESOURCES, verbs: READ }],
    ),
    role(
      'nodemesh-edit',
      ['edit', 'admin'],
      [
        {
          apiGroups: ['nodemesh.dev'],
          resources: editable,
          verbs: ['create', 'delete', 'deletecollection', 'patch', 'update'],
        },
      ],
    ),
  ];
}

export function accessObjects(version: string): KubeObject[] {
  return [
    account(CONTROLLER, 'controller', version),
    account(NODE, 'node', version),
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'ClusterRole',
      metadata: metadata(CONTROLLER, 'controller', version, 'cluster'),
      rules: CONTROLLER_CLUSTER_RULES.map(ruleOf),
    },
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'Role',
      metadata: metadata(CONTROLLER, 'controller', version),
      rules: CONTROLLER_NAMESPACE_RULES.map(ruleOf),
    },
    ...bindings(version),
    ...aggregateRoles(version),
  ];
}
