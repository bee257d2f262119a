import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createApiClient, statusOf } from '../../src/kubernetes/api-client.ts';
import { eventually, startFakeApi } from './fake-api.ts';

t.test('what the server refuses says so, with its own words', async (t) => {
  const api = await startFakeApi(t, createFakeClock());
  const cases = [
    [403, { message: 'pods is forbidden', reason: 'Forbidden' }, false],
    [409, { message: 'modified' }, false],
    [429, { message: 'slow down' }, true],
    [500, undefined, true],
  ] as const;
  for (const [status, body, retryable] of cases) {
    api.intercept = () => ({ status, body });
    const answer = await api.client.request({ path: '/x' });
    if (answer.ok) throw new Error('was accepted');
    t.match(answer.error, { code: 'MESH_API_REFUSED', retryable });
    t.equal(statusOf(answer.error), status);
    t.match(answer.error.message, body?.message ?? '500');
  }
  api.intercept = (_, response) => {
    response.writeHead(502, { 'content-type': 'text/html' });
    response.end('<html>no backend</html>');
    return 'taken';
  };
  const gateway = await api.client.request({ path: '/x' });
  t.match(!gateway.ok && gateway.error.message, '502 <html>no backend');
});

t.test('F04: nobody there, silence, and nonsense are all unreachable and retryable', async (t) => {
  const clock = createFakeClock();
  const api = await startFakeApi(t, clock);
  const unreachable = { code: 'MESH_API_UNREACHABLE', retryable: true };
  api.intercept = (_, response) => {
    response.end('{"half":');
    return 'taken';
  };
  const half = await api.client.request({ path: '/x' });
  t.match(!half.ok && half.error, unreachable);
  api.intercept = () => 'taken';
  const silent = api.client.request({ path: '/x', timeoutMs: 5_000 });
  await eventually('the request', () => api.requests.length === 2);
  await clock.advance(5_000);
  const answer = await silent;
  t.match(!answer.ok && answer.error, unreachable);
  t.match(!answer.ok && answer.error.message, 'no answer within 5000 ms');
  const access = (): Promise<never> => Promise.reject(new Error('no token'));
  using lost = createApiClient({
    clock,
    credentials: { server: new URL('http://[::1]:1'), access },
  });
  const untold = await lost.request({ path: '/x' });
  t.match(!untold.ok && untold.error.message, 'no token');
  const server = new URL('http://127.0.0.1:1');
  const credentials = { server, access: () => Promise.resolve({ tls: {}, headers: {} }) };
  using gone = createApiClient({ clock, credentials });
  const refused = await gone.request({ path: '/x' });
  t.match(!refused.ok && refused.error, unreachable);
  t.equal(clock.pendingCount(), 0, 'no timer is left');
});

t.test('a caller that goes away ends its request', async (t) => {
  const api = await startFakeApi(t, createFakeClock());
  const caller = new AbortController();
  const watch = api.client.stream(
    { path: '/x', query: { watch: 'true' }, signal: caller.signal, timeoutMs: 60_000 },
    () => Promise.resolve(),
  );
  await eventually('the watch', () => api.watches.length === 1);
  caller.abort(new Error('enough'));
  const ended = await watch;
  t.match(!ended.ok && ended.error.message, 'enough');
  await eventually('the server knows', () => api.watches.length === 0);
});
