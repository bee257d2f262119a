/**
 * What counts in the place of an object that cannot be read and never could: policy fails closed. It needs a
 * target that can be read, for nobody is denied by guessing; an object without one is only reported.
 *
 * - AuthorizationPolicy: ALLOW allows nothing; DENY, and what may be one, denies everything. AUDIT and a dry run
 *   refuse nobody anyway.
 * - PeerAuthentication: STRICT on every port. RequestAuthentication: its targets answer no request.
 * - MeshConfig: its mode if that can be read, else STRICT.
 * - XBackendTrafficPolicy: one that sets nothing, and says why in its status; also in place of a good version (GEP-713).
 * - TrafficPolicy and what else is not ours: nothing. That is configuration, without which traffic goes on.
 */

import { isDryRun } from '../authorization.ts';
import { NO_TRAFFIC_SETTINGS } from '../../core/traffic-policy.ts';
import {
  BACKEND_POLICY_PREFIX,
  DEFAULT_MESH_CONFIG,
  type AuthorizationPolicy,
  type AuthorizationRule,
  type MeshConfig,
  type MeshObject,
  type PeerAuthentication,
  type RequestAuthenticationObject,
} from '../objects.ts';
import { formatProblems, type FieldPath, type FieldProblem } from './fields.ts';

export interface Stead {
  readonly object: MeshObject;
  /** For log and status, after "until it can be read". */
  readonly effect: string;
  /** Whether it counts even where a good version is known. */
  readonly replaces?: true;
}

/** True for everybody. */
const ANY_RULE: AuthorizationRule = { from: [], to: [], when: [] };
const TARGET_FIELDS = ['selector', 'targetRef', 'targetRefs'];
const OTHER_FIELDS = ['action', 'rules', 'mtls', 'portLevelMtls', 'jwtRules'];

/** `object`: what could be read of it; `problems`: what could not, never none. */
export function steadOf(object: MeshObject, problems: readonly FieldProblem[]): Stead | undefined {
  if (object.kind === 'MeshConfig') return meshStead(object, problems);
  if (object.kind === 'TrafficPolicy' && object.meta.name.startsWith(BACKEND_POLICY_PREFIX)) {
    const invalid = formatProblems(problems);
    return {
      object: { ...object, invalid, settings: NO_TRAFFIC_SETTINGS },
      effect: 'nothing of it counts',
      replaces: true,
    };
  }
  const isPolicy =
    object.kind === 'AuthorizationPolicy' ||
    object.kind === 'PeerAuthentication' ||
    object.kind === 'RequestAuthentication';
  if (!isPolicy || !isTargetReadable(object, problems)) return undefined;
  switch (object.kind) {
    case 'AuthorizationPolicy':
      return authorizationStead(object, problems);
    case 'PeerAuthentication':
      return {
        object: { ...object, mode: 'STRICT', portModes: new Map() },
        effect: 'what it selects is STRICT on every port',
      };
    case 'RequestAuthentication':
      return {
        object: { ...object, rules: [], invalid: 'the object cannot be read' },
        effect: 'its targets answer no request',
      };
  }
}

function authorizationStead(
  object: AuthorizationPolicy,
  problems: readonly FieldProblem[],
): Stead | undefined {
  const isActionRead = !problems.some(({ path }) => isAt(path, 'spec', 'action'));
  if (isDryRun(object, false)) return undefined;
  if (!isActionRead || object.action === 'DENY') {
    return {
      object: { ...object, action: 'DENY', rules: [ANY_RULE] },
      effect: 'it denies everything to what it selects',
    };
  }
  if (object.action === 'AUDIT') return undefined;
  return { object: { ...object, rules: [] }, effect: 'it allows nothing to what it selects' };
}

function meshStead(object: MeshConfig, problems: readonly FieldProblem[]): Stead | undefined {
  if (problems.some(({ path }) => path.length < 2 || isAt(path, 'metadata'))) return undefined;
  const isModeRead = !problems.some(({ path }) => isAt(path, 'spec', 'mtls'));
  if (isModeRead && object.mtlsMode !== 'STRICT') return undefined;
  const { kind, meta } = object;
  return {
    object: { kind, meta, ...DEFAULT_MESH_CONFIG, mtlsMode: 'STRICT' },
    effect: 'the mesh is STRICT, and has the defaults otherwise',
  };
}

/** Without a target in sight, any field that nobody knows may have been meant to be one. */
function isTargetReadable(
  object: AuthorizationPolicy | PeerAuthentication | RequestAuthenticationObject,
  problems: readonly FieldProblem[],
): boolean {
  const hasTarget =
    ('selector' in object && object.selector !== undefined) ||
    ('targets' in object && object.targets.length > 0);
  if (object.kind === 'RequestAuthentication' && !hasTarget) return false;
  return problems.every(({ path }) => {
    if (path.length < 2 || path[0] !== 'spec') return false;
    if (TARGET_FIELDS.some((field) => isAt(path, 'spec', field))) return false;
    return hasTarget || OTHER_FIELDS.includes(String(path[1]));
  });
}

function isAt(path: FieldPath, ...start: string[]): boolean {
  return start.every((part, index) => path[index] === part);
}
