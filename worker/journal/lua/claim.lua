-- claim(sid, step, owner, token, since, lease_ms, poison_deaths, wait_ms)
--   -> {status, fence, attempt, deaths, retries, length, {record ...}, life}; status as in ports.Claimed
-- A claim repeated with its token (its reply was lost) returns the same lease.
local sid, step, owner, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local row = row_key(sid, step)
local h = redis.call('HMGET', row, 'state', 'fence', 'token', 'lease_until', 'not_before', 'attempt',
  'deaths', 'retries')
if not h[1] or not is_open(sid) then return {'gone'} end
if step == 'deadline' and redis.call('HEXISTS', session_key(sid), 'halted_ms') == 1 then
  return {'wait'}
end
if done(sid, step) then
  -- Its key came from elsewhere: nobody else would notice that the step is over.
  forget(sid, step)
  drive_if_below(sid, 1)
  return {'gone'}
end
local fence, attempt, deaths = h[2], tonumber(h[6]), tonumber(h[7])
if not (h[1] == 'leased' and h[3] == token) then
  if h[1] == 'leased' and tonumber(h[4]) > now then return {'busy'} end
  if h[1] == 'ready' and tonumber(h[5]) > now then return {'wait'} end
  if step == 'conclude' then
    -- Money may still be under way: conclude is alone, or waits.
    for _, other in ipairs(redis.call('SMEMBERS', open_key(sid))) do
      local o = redis.call('HMGET', row_key(sid, other), 'state', 'lease_until')
      if other ~= step and o[1] == 'leased' and tonumber(o[2]) > now then
        redis.call('HSET', row, 'not_before', int(now + tonumber(ARGV[8])))
        due_at(sid, step, now + tonumber(ARGV[8]))
        return {'wait'}
      end
    end
  end
  local dead = h[1] == 'leased' and redis.call('HGET', row, 'owner')
  if dead then deaths = redis.call('HINCRBY', row, 'deaths', 1) end
  fence = int(redis.call('HINCRBY', session_key(sid), 'fence', 1))
  attempt = redis.call('HINCRBY', row, 'attempt', 1)
  if dead then
    note(sid, step, attempt, owner, 'took over from ' .. dead .. ', whose lease ran out')
  end
  local until_ms = now + tonumber(ARGV[6])
  redis.call('HSET', row, 'state', 'leased', 'fence', fence, 'token', token, 'owner', owner,
    'lease_until', int(until_ms), 'leased_ms', int(now), 'tells', '0')
  due_at(sid, step, until_ms)
end
local status = deaths >= tonumber(ARGV[7]) and 'poisoned' or 'ok'
local records = redis.call('LRANGE', journal_key(sid), ARGV[5], -1)
return {status, fence, attempt, deaths, tonumber(h[8]), redis.call('LLEN', journal_key(sid)),
  records, redis.call('HGET', session_key(sid), 'life') or ''}
