-- settle(rid, actual, usage, request_id, message_id, keep_ms) -> over: how far the truth was above the
--   bound, as text | '-' where there is no such reservation
-- a:<scope> hash: held, posted, unknown, breach, frozen; r:<rid> hash, `keep_ms`; open zset; j stream
-- The truth is taken from every state, the first one for good: `expired` is corrected, and even
-- what was given up as `void` or `refunded` is charged, as a breach: nothing was held for it.
local rid, actual = ARGV[1], amount(ARGV[2])
local R = reservation_key(rid)
local state, amt, names = standing(rid)
if not state then return '-' end
if state == 'settled' then return redis.call('HGET', R, 'over') end
if (state == 'void' or state == 'refunded') and actual == 0 then return '0' end
local bound = amt
if is_open(state) then
  add(names, 'held', -amt, 'posted', actual)
elseif state == 'expired' then
  add(names, 'posted', actual - amt, 'unknown', -amt)
else
  add(names, 'posted', actual)
  bound = 0
end
local over = math.max(actual - bound, 0)
if over > 0 then
  add(names, 'breach', over)
  for scope in each_scope(names) do redis.call('HSET', account_key(scope), 'frozen', '1') end
end
redis.call('HSET', R, 'state', 'settled', 'actual', ARGV[2], 'over', int(over), 'usage', ARGV[3], 'request_id', ARGV[4],
  'message_id', ARGV[5], 'why', '', 'ended_ms', int(now_ms()))
ended(rid, names, ARGV[6])
log('settle', 'id', rid, 'from', state, 'actual', ARGV[2], 'over', int(over), 'usage', ARGV[3])
return int(over)
