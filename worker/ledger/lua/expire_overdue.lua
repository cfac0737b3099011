-- expire_overdue(limit, keep_ms) -> how many were ended
-- open zset; a:<scope> hash: held, posted, unknown; r:<rid> hash, `keep_ms`; j stream
-- What was never sent costs nothing; what was sent may have been billed.
local overdue = redis.call('ZRANGEBYSCORE', OPEN, '-inf', int(now_ms()), 'LIMIT', 0, ARGV[1])
for _, rid in ipairs(overdue) do
  local state, amt, names = standing(rid)
  if state == 'held' then
    give_back(rid, state, amt, names, 'never sent', ARGV[2])
  elseif state == 'sent' then
    charge_bound(rid, state, amt, names, 'deadline', ARGV[2])
  else
    redis.call('ZREM', OPEN, rid)
  end
end
return #overdue
