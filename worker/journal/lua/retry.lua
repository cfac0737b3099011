-- retry(sid, step, fence, delay_ms, error, counts) -> 1 | 0 (the lease was lost)
-- The step is ready again after the delay; the sweep tells it. A wait that counts as no failure is noted
-- once for each reason: a step may wait for its turn a hundred times.
local sid, step = ARGV[1], ARGV[2]
if not holds(sid, step, ARGV[3]) then return 0 end
local row = row_key(sid, step)
local h = redis.call('HMGET', row, 'attempt', 'owner', 'last_error')
if ARGV[6] ~= '0' or h[3] ~= ARGV[5] then note(sid, step, h[1], h[2], ARGV[5]) end
local at = now + tonumber(ARGV[4])
redis.call('HSET', row, 'state', 'ready', 'not_before', int(at), 'last_error', ARGV[5], 'owner', '')
redis.call('HDEL', row, 'token', 'lease_until')
redis.call('HINCRBY', row, 'retries', ARGV[6])
if redis.call('HGET', row, 'stop') == '1' then
  take_back(sid, step)
  drive_if_below(sid, 1)
else
  due_at(sid, step, at)
end
return 1
