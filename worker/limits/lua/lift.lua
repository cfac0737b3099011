-- lift(constants) -> 1 | 0 (there was nothing to lift)
-- stop string; b hash of every group: pause_until, said.
local lifted = redis.call('DEL', STOP)
for _, name in ipairs(redis.call('SMEMBERS', GROUPS)) do
  local key = P .. name .. ':b'
  if tonumber(redis.call('HGET', key, 'pause_until') or '0') > now then lifted = 1 end
  redis.call('HDEL', key, 'pause_until', 'said')
end
return lifted > 0 and 1 or 0
