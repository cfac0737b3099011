-- expire_overdue(limit, keep_ms) -> how many were ended
-- open zset; a:<scope> hash: held, posted, unknown; r:<rid> hash, `keep_ms`; j stream
-- What was never sent costs nothing; what was sent may have been billed.
-- A hold that stands again for one that was never sent may be overdue too: it is ended as well, so that
-- a repeat after a lost reply finds nothing.
local limit, ended_now = tonumber(ARGV[1]), 0
local function end_one(rid)
  local state, amt, names = standing(rid)
  if state == 'held' then
    give_back(rid, state, amt, names, 'never sent', ARGV[2])
  elseif state == 'sent' then
    charge_bound(rid, state, amt, names, 'deadline', ARGV[2])
  else
    redis.call('ZREM', OPEN, rid)
  end
end
while ended_now < limit do
  local overdue = redis.call('ZRANGEBYSCORE', OPEN, '-inf', int(now_ms()), 'LIMIT', 0, limit - ended_now)
  if #overdue == 0 then break end
  for _, rid in ipairs(overdue) do end_one(rid) end
  ended_now = ended_now + #overdue
end
return ended_now
