/** Large sets of routes are compiled in short steps before they count. */

import t from 'tap';

import { runAtOnce } from '../../src/base/steps.ts';
import type { RouteSet, WaypointService } from '../../src/core/route.ts';
import { createServicePlans } from '../../src/waypoint/service-plan.ts';
import { key, stateWith } from '../state/build.ts';
import { buildMatch, buildRequest, buildRule, buildSet } from './build-routes.ts';

const RULES = 5_000;

/** Rules that share one path and differ in a header: what takes longest to compile. */
function manyRoutes(version: string): RouteSet {
  return buildSet(
    Array.from({ length: RULES }, (_, index) =>
      buildRule({
        index,
        name: version,
        matches: [
          buildMatch({
            headers: [{ name: 'x', match: { kind: 'exact', value: String(index) } }],
          }),
        ],
      }),
    ),
  );
}

t.test('the routes of before serve until the next are compiled, step by step', async (t) => {
  const plans = createServicePlans(stateWith([]), { namespace: 'shop', name: 'waypoint' });
  const service = (producer: RouteSet): WaypointService => ({
    key: key('cart'),
    ports: [{ port: 80, appProtocol: 'HTTP11', producer, consumers: new Map() }],
  });
  const served = (): string | undefined => {
    const port = plans.port(key('cart'), 80);
    const request = buildRequest('http://cart/', [['x', '4999']]);
    return port && plans.routes(port, 'shop').match(request)?.rule.name;
  };
  const first = service(manyRoutes('first'));
  runAtOnce(plans.prepare(first));
  plans.apply([first], []);
  t.equal(served(), 'first');
  const second = service(manyRoutes('second'));
  let steps = 0;
  for (const work = plans.prepare(second); work.next().done !== true; steps++) {
    t.equal(served(), 'first');
  }
  t.ok(steps > RULES / 16, `${steps} places where others get their turn`);
  plans.apply([second], []);
  t.equal(served(), 'second');
  t.strictSame([...plans.prepare(second)], [], 'it is compiled');
});
