/**
 * Where a redirect leads and what a rewrite sends upstream (HTTPRequestRedirectFilter, HTTPURLRewriteFilter of
 * Gateway API). Ports: a given one; else the well-known one of a given scheme; else the one the client asked for.
 * 80 of http and 443 of https are not written. The query stays.
 */

import type { PathChange, Redirect, Rewrite } from '../core/route.ts';
import type { RequestTarget } from '../http/request-target.ts';
import type { CandidatePath } from './route-candidate.ts';

type Scheme = 'http' | 'https';
const PORTS: Readonly<Record<Scheme, number>> = { http: 80, https: 443 };

/** `servicePort`: the port of the service that the client addressed. `matched`: what the rule matched with. */
export function redirectLocation(
  redirect: Redirect,
  target: RequestTarget,
  matched: CandidatePath,
  servicePort: number,
): string {
  const scheme = redirect.scheme ?? target.scheme;
  const host = redirect.hostname ?? target.host;
  const port =
    redirect.port ?? (redirect.scheme === undefined ? servicePort : PORTS[redirect.scheme]);
  const suffix = port === PORTS[scheme] ? '' : `:${port}`;
  return `${scheme}://${host}${suffix}${changePath(redirect.path, target, matched)}${target.query}`;
}

/** Authority and path (with query) of the request that goes upstream. */
export function rewriteTarget(
  rewrite: Rewrite,
  target: Pick<RequestTarget, 'authority' | 'path' | 'query'>,
  matched: CandidatePath,
): { readonly authority: string; readonly path: string } {
  return {
    authority: rewrite.hostname ?? target.authority,
    path: `${changePath(rewrite.path, target, matched)}${target.query}`,
  };
}

function changePath(
  change: PathChange | undefined,
  target: Pick<RequestTarget, 'path'>,
  matched: CandidatePath,
): string {
  if (change === undefined) return target.path;
  if (change.kind === 'full') return change.value === '' ? '/' : change.value;
  // Segments and not characters: an escaped path is longer than what was compared.
  const rest = afterSegments(target.path, matched.value.split('/').length - 1);
  const base = change.value.replace(/\/+$/, '');
  const joined = base + rest;
  return joined.startsWith('/') ? joined : `/${joined}`;
}

/** `/a/b/c` after 1 segment: `/b/c`. */
function afterSegments(path: string, count: number): string {
  let position = 0;
  for (let left = count; left > 0; left--) {
    const next = path.indexOf('/', position + 1);
    if (next < 0) return '';
    position = next;
  }
  return path.slice(position);
}
