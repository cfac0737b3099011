-- restore(rid, state, amount, actual, usage, request_id, message_id, why, kind, model, step,
--         price_version, created_ms, ended_ms, deadline_ms, keep_ms, scope ...)
--   -> 1 | 0 where it is known, or is held and does not fit | -1, scope where an account is missing
-- a:<scope> hash: posted, unknown, held; r:<rid> hash, `keep_ms` once ended; open zset; s:<session> list
-- What was spent is charged whatever the caps say; what was only held is held again where it fits.
local rid, state, amt, actual = ARGV[1], ARGV[2], amount(ARGV[3]), amount(ARGV[4])
local names = table.concat(ARGV, ' ', 17)
if redis.call('EXISTS', reservation_key(rid)) == 1 then return {0} end
for scope in each_scope(names) do
  local a = fields_of(scope)
  if not a[1] then return {-1, scope} end
  if state == 'held' and a[2] + a[3] + amt > tonumber(a[1]) then return {0} end
end
local expired = state == 'expired' and actual or 0
add(names, 'posted', actual, 'unknown', expired, 'held', state == 'held' and amt or 0)
redis.call('HSET', reservation_key(rid), 'state', state, 'amount', ARGV[3], 'actual', ARGV[4], 'over',
  int(state == 'settled' and math.max(actual - amt, 0) or 0), 'scopes', names, 'usage', ARGV[5],
  'request_id', ARGV[6], 'message_id', ARGV[7], 'why', ARGV[8], 'kind', ARGV[9], 'model', ARGV[10],
  'step', ARGV[11], 'price_version', ARGV[12], 'created_ms', ARGV[13], 'ended_ms', ARGV[14])
for scope in each_scope(names) do
  local session = session_of(scope)
  if session then redis.call('RPUSH', P .. 's:' .. session, rid) end
end
if state == 'held' then
  redis.call('ZADD', OPEN, int(now_ms() + ARGV[15]), rid)
  keep(names, ARGV[16])
else
  ended(rid, names, ARGV[16])
end
log('restore', 'id', rid, 'state', state, 'amount', ARGV[3], 'actual', ARGV[4], 'scopes', names, 'kind', ARGV[9], 'model',
  ARGV[10], 'step', ARGV[11])
return {1}
