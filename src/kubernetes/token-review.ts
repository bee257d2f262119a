/**
 * Who calls, by the API server's word on the caller's projected token (T05, T06): a token of our audience, bound
 * to a pod that lives. The node proxy's own service account proves the node its pod runs on, any other account
 * proves a workload. Nothing is taken from the request.
 *
 * - An answer counts for half a minute, never beyond the token's own life. While the API server cannot be asked,
 *   a good one counts for ten minutes, so that node proxies may reconnect; who was never seen is told to come
 *   again.
 * - One question at a time per token; questions in all, and what is remembered, are bounded.
 * - Only digests of tokens are kept.
 */

import { createHash } from 'node:crypto';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import {
  unauthenticated,
  type Authenticator,
  type CallerIdentity,
} from '../controlplane/caller.ts';
import { ROOT_NAMESPACE } from '../controlplane/objects.ts';
import type { PodUid } from '../core/pod.ts';
import type { ApiClient } from './api-client.ts';

export const TOKEN_AUDIENCE = 'nodemesh';
/** The one service account that proves a node. */
export const NODE_ACCOUNT = 'nodemesh-node';

export interface TokenReviewOptions {
  readonly clock: Clock;
  readonly client: ApiClient;
  /** Default `TOKEN_AUDIENCE`. */
  readonly audience?: string;
  /** False when the token's pod is known to be gone: then nothing that is remembered counts (T05). */
  readonly isPodKnown?: (uid: PodUid) => boolean;
}

const FRESH_MS = 30_000;
const STALE_MS = 600_000;
/** A wrong token asked again soon is answered from here. */
const REFUSED_MS = 5_000;
const REMEMBERED_MAX = 20_000;
const QUESTIONS_MAX = 64;
const REVIEW_TIMEOUT_MS = 5_000;

const NODE_NAME = 'authentication.kubernetes.io/node-name';
const POD_NAME = 'authentication.kubernetes.io/pod-name';
const POD_UID = 'authentication.kubernetes.io/pod-uid';

interface Proven {
  readonly caller: CallerIdentity;
  readonly podUid: PodUid;
}

interface Remembered {
  readonly answer: Result<Proven>;
  readonly freshUntilMs: number;
  readonly staleUntilMs: number;
}

export function createTokenReviewer(options: TokenReviewOptions): Authenticator {
  const { clock, client, audience = TOKEN_AUDIENCE } = options;
  const remembered = new Map<string, Remembered>();
  const asking = new Map<string, Promise<Result<Proven>>>();
  const isGone = ({ answer }: Remembered): boolean =>
    answer.ok && options.isPodKnown?.(answer.value.podUid) === false;

  const remember = (digest: string, token: string, answer: Result<Proven>): void => {
    const nowMs = clock.nowMs();
    const lifeMs = (expiryMs(token) ?? clock.wallMs()) - clock.wallMs();
    remembered.delete(digest);
    if (remembered.size >= REMEMBERED_MAX) {
      // Insertion order is age: the oldest goes, good or not, and costs one question.
      for (const oldest of remembered.keys()) {
        remembered.delete(oldest);
        break;
      }
    }
    const freshMs = answer.ok ? Math.min(FRESH_MS, lifeMs) : REFUSED_MS;
    const staleMs = answer.ok ? Math.min(STALE_MS, lifeMs) : REFUSED_MS;
    remembered.set(digest, {
      answer,
      freshUntilMs: nowMs + freshMs,
      staleUntilMs: nowMs + staleMs,
    });
  };

  const ask = async (digest: string, token: string): Promise<Result<Proven>> => {
    const answer = await review(client, audience, token);
    const conclusive = answer.ok || !answer.error.retryable;
    if (conclusive) {
      remember(digest, token, answer);
      return answer;
    }
    const known = remembered.get(digest);
    const counts = known !== undefined && clock.nowMs() < known.staleUntilMs && !isGone(known);
    return counts ? known.answer : answer;
  };

  const prove = (token: string): Promise<Result<Proven>> => {
    const digest = createHash('sha256').update(token).digest('base64');
    const known = remembered.get(digest);
    if (known !== undefined && clock.nowMs() < known.freshUntilMs && !isGone(known)) {
      return Promise.resolve(known.answer);
    }
    const running = asking.get(digest);
    if (running !== undefined) return running;
    if (asking.size >= QUESTIONS_MAX) return Promise.resolve(comeAgain('too many at once'));
    const answer = ask(digest, token).finally(() => asking.delete(digest));
    asking.set(digest, answer);
    return answer;
  };

  return {
    async authenticate(token) {
      const proven = await prove(token);
      return proven.ok ? ok(proven.value.caller) : proven;
    },
  };
}

function comeAgain(reason: string, cause?: unknown): Result<never> {
  const message = `Cannot authenticate caller now: ${reason}`;
  const options = { retryable: true, cause };
  return fail(new MeshError('MESH_DISCOVERY_UNAUTHENTICATED', message, options));
}

/** The `exp` of a token, which the API server checked; undefined when it has none. */
export function expiryMs(token: string): number | undefined {
  try {
    const claims = Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8');
    const { exp } = JSON.parse(claims) as { exp?: unknown };
    return typeof exp === 'number' && Number.isFinite(exp) ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

interface ReviewStatus {
  readonly authenticated?: unknown;
  readonly error?: unknown;
  readonly audiences?: unknown;
  readonly user?: {
    readonly username?: unknown;
    readonly extra?: Readonly<Record<string, readonly unknown[] | undefined>>;
  };
}

async function review(client: ApiClient, audience: string, token: string): Promise<Result<Proven>> {
  const answer = await client.request({
    method: 'POST',
    path: '/apis/authentication.k8s.io/v1/tokenreviews',
    body: {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      spec: { token, audiences: [audience] },
    },
    timeoutMs: REVIEW_TIMEOUT_MS,
  });
  if (!answer.ok) return comeAgain('the API server did not answer', answer.error);
  const { status = {} } = (answer.value ?? {}) as { status?: ReviewStatus };
  if (status.authenticated !== true) {
    const reason = typeof status.error === 'string' ? status.error.slice(0, 256) : '';
    return unauthenticated(`the API server does not know the token: ${reason}`);
  }
  // An API server that knows no audiences leaves the list out; then the token was not checked for ours.
  if (!Array.isArray(status.audiences) || !status.audiences.includes(audience)) {
    return unauthenticated(`the token is not for the audience "${audience}"`);
  }
  return identify(client, status);
}

async function identify(client: ApiClient, status: ReviewStatus): Promise<Result<Proven>> {
  const { username, extra = {} } = status.user ?? {};
  const account = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(String(username));
  const [, namespace = '', serviceAccount = ''] = account ?? [];
  if (account === null) return unauthenticated('the token is not that of a service account');
  const pod = word(extra[POD_NAME]);
  const uid = word(extra[POD_UID]);
  const podUid = uid as PodUid;
  if (pod === '' || uid === '') {
    return unauthenticated(`the token of "${namespace}/${serviceAccount}" is not bound to a pod`);
  }
  if (namespace !== ROOT_NAMESPACE || serviceAccount !== NODE_ACCOUNT) {
    const caller = { kind: 'workload', namespace, serviceAccount, pod } as const;
    return ok({ caller, podUid });
  }
  const named = word(extra[NODE_NAME]);
  const node: Result<string> =
    named === '' ? await nodeOfPod(client, namespace, pod, uid) : ok(named);
  return node.ok ? ok({ caller: { kind: 'node', node: node.value }, podUid }) : node;
}

function word(values: readonly unknown[] | undefined): string {
  const [value] = values ?? [];
  return typeof value === 'string' ? value : '';
}

/** For API servers older than 1.30, whose tokens do not name the node. */
async function nodeOfPod(
  client: ApiClient,
  namespace: string,
  name: string,
  uid: string,
): Promise<Result<string>> {
  const path = `/api/v1/namespaces/${namespace}/pods/${encodeURIComponent(name)}`;
  const answer = await client.request({ path, timeoutMs: REVIEW_TIMEOUT_MS });
  if (!answer.ok) {
    if (answer.error.retryable) return comeAgain('the API server did not answer', answer.error);
    return unauthenticated(answer.error.message);
  }
  const pod = (answer.value ?? {}) as {
    metadata?: { uid?: unknown };
    spec?: { nodeName?: unknown };
  };
  const node = pod.spec?.nodeName;
  if (pod.metadata?.uid !== uid || typeof node !== 'string' || node === '') {
    return unauthenticated(`the pod "${name}" of the token is gone or on no node`);
  }
  return ok(node);
}
